"""How long what took of one answer, as the client is told: llama.cpp's names where it has them. Knows no clock."""

from __future__ import annotations

from collections.abc import Sequence


def answer_timings(times: Sequence[float | None], *, num_prompt_tokens: int, num_cached_tokens: int, num_tokens: int) -> dict[str, float]:
    """`times`: the fields of `protocol.Timings`, in order. A phase that was not reached took 0 ms."""
    arrived, queued, started, first, finished = times
    assert arrived is not None and queued is not None and finished is not None
    started = finished if started is None else started
    first = max(started, finished if first is None else first)
    prompt, predicted = first - started, finished - first
    return {
        "preprocess_ms": _ms(queued - arrived),
        "queue_ms": _ms(started - queued),
        "cache_n": num_cached_tokens,
        "prompt_n": num_prompt_tokens - num_cached_tokens,
        "prompt_ms": _ms(prompt),
        "prompt_per_second": _rate(num_prompt_tokens - num_cached_tokens, prompt),
        "predicted_n": num_tokens,
        "predicted_ms": _ms(predicted),
        "predicted_per_second": _rate(num_tokens - 1, predicted),  # the first one came at the end of the prompt's time
        "total_ms": _ms(finished - arrived),
    }


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 3)


def _rate(count: int, seconds: float) -> float:
    return round(count / seconds, 3) if count > 0 and seconds > 0 else 0.0
