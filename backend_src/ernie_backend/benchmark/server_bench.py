"""Closed-loop load on a running server from several client processes, and what it says about it; speaks no protocol itself.

Two rates: all tokens over the whole time, prompts included; and, to hold against the engine's own decode rate, the tokens that came while
every stream was between its first and its last token.
"""

from __future__ import annotations

import multiprocessing
import queue
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..errors import EngineError
from .load_client import Answer, ClientResult, Job, run_client

_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class ServerRow:
    streams: int
    processes: int
    requests: int
    failed: int
    seconds: float
    """From the first request to the last token."""
    tokens_per_second: float
    decode_tokens_per_second: float | None
    """While all streams were decoding; None: they never were at once."""
    responses_per_second: float
    first_token_ms: tuple[float, float]
    """p50 and p99 of the time to the first token."""
    inter_token_ms: tuple[float, float]
    """p50 and p99 over tokens: the time between two responses, over the tokens of the second."""
    error: str | None
    """Of the first request that failed."""


def load(job: Job, processes: int, progress: Callable[[int], None]) -> ServerRow:
    """`job.streams` streams on `processes` processes; `progress(n)` is told of n more finished requests now and then."""
    processes = min(processes, job.streams)
    results = run_clients(job, processes, progress)
    return summary([answer for result in results for answer in result.answers], job.streams, processes)


def run_clients(job: Job, processes: int, progress: Callable[[int], None]) -> list[ClientResult]:
    """What each of the processes saw, with the streams spread over them."""
    context = multiprocessing.get_context("spawn")
    barrier, done, results = context.Barrier(processes), context.Value("i", 0), context.Queue()
    clients = []
    for i in range(processes):
        share = Job(**{**job.__dict__, "streams": job.streams // processes + (i < job.streams % processes), "seed": job.seed + i})
        clients.append(context.Process(target=run_client, args=(share, barrier, done, results), daemon=True))
    for client in clients:
        client.start()
    found: list[ClientResult] = []
    told, missing = 0, processes
    while missing:
        try:
            found.append(results.get(timeout=_POLL_SECONDS))
            missing -= 1
        except queue.Empty:
            if not any(client.is_alive() for client in clients) and results.empty():
                raise EngineError(f"{missing} client processes ended without a result.") from None
        progress(done.value - told)
        told = done.value
    for client in clients:
        client.join()
    return found


def summary(answers: Sequence[Answer], streams: int, processes: int) -> ServerRow:
    """The row of a run. Answers that failed count as failed, and in nothing else."""
    good = [answer for answer in answers if answer.error is None]
    errors = [answer.error for answer in answers if answer.error is not None]
    start, end = min((answer.start for answer in good), default=0.0), max((answer.times[-1] for answer in good), default=0.0)
    seconds = end - start
    gaps: list[tuple[float, float]] = []
    for answer in good:
        for before, now, tokens in zip(answer.times, answer.times[1:], answer.tokens[1:], strict=False):
            gaps.append(((now - before) / tokens * 1e3, tokens))
    first = [((answer.times[0] - answer.start) * 1e3, 1.0) for answer in good]
    return ServerRow(
        *(streams, processes, len(answers), len(errors), seconds),
        tokens_per_second=sum(sum(answer.tokens) for answer in good) / seconds if good else 0.0,
        decode_tokens_per_second=_decode_rate(good, streams),
        responses_per_second=sum(len(answer.times) for answer in good) / seconds if good else 0.0,
        first_token_ms=(percentile(first, 50), percentile(first, 99)),
        inter_token_ms=(percentile(gaps, 50), percentile(gaps, 99)),
        error=errors[0] if errors else None,
    )


def percentile(weighted: Sequence[tuple[float, float]], percent: float) -> float:
    """The smallest value that at least `percent` of the (value, weight)s' weight does not exceed; 0 of nothing."""
    total = sum(weight for _, weight in weighted)
    below = 0.0
    for value, weight in sorted(weighted):
        below += weight
        if below >= total * percent / 100:
            return value
    return 0.0


def _decode_rate(answers: Sequence[Answer], streams: int) -> float | None:
    """Tokens per second over the stretches in which `streams` answers are between their first and their last token."""
    changes = sorted([(answer.times[0], 1) for answer in answers] + [(answer.times[-1], -1) for answer in answers])
    stretches: list[tuple[float, float]] = []
    decoding, since = 0, 0.0
    for now, change in changes:
        if decoding == streams and now > since:
            stretches.append((since, now))
        decoding, since = decoding + change, now
    seconds = sum(end - start for start, end in stretches)
    if not seconds:
        return None
    arrivals = sorted(pair for answer in answers for pair in zip(answer.times, answer.tokens, strict=True))
    tokens, position = 0.0, 0
    for start, end in stretches:
        while position < len(arrivals) and arrivals[position][0] <= start:
            position += 1
        while position < len(arrivals) and arrivals[position][0] <= end:
            tokens += arrivals[position][1]
            position += 1
    return tokens / seconds
