"""The engine's spans of one answer: queue, prefill, decode; made when it has ended, from the times the engine noted. Knows no pb_utils."""

from __future__ import annotations

from ..delivery import Response
from ..protocol import GenerateRequest
from ..tracing import Tracer


def record_answer(tracer: Tracer, generate: GenerateRequest, response: Response) -> None:
    """`response` is the last one of a choice. What was never reached has no span; the last one tells of an error."""
    times = response.timings
    if times is None:
        return
    reached = {"queue": (times.queued_at, times.started_at), "prefill": (times.started_at, times.first_token_at)}
    spans = {**reached, "decode": (times.first_token_at, times.finished_at)}
    attributes: dict[str, str | int] = {"ernie.request_id": generate.request_id, "ernie.choice": response.index}
    for name, (start, end) in spans.items():
        if start is None:
            return
        details = dict(attributes)
        if name == "prefill":
            details |= {"gen_ai.usage.input_tokens": len(generate.prompt_token_ids), "ernie.cached_tokens": response.num_cached_tokens}
        if name == "decode" and response.finish_reason is not None:
            details["gen_ai.response.finish_reasons"] = response.finish_reason.value
        error = response.error if end is None or name == "decode" else None
        tracer.record(name, start, times.finished_at if end is None else end, generate.traceparent, details, error=error)
