"""What the generating routes share: the request's way from body to answer; knows no field of either endpoint."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass, replace

from fastapi import Request, Response

from ..answers import AnswerStyle, UsageMeter, whole_answer
from ..client import EngineClient
from ..convert import AnswerPlan
from ..errors import dumps
from ..http_metrics import HttpMetrics
from ..request_record import record_of
from ..settings import FrontendSettings
from ..streaming import EventStreamResponse, answer_events, answer_lines, run_until_disconnect


@dataclass(frozen=True)
class Frontend:
    """What every route may use; stands in `app.state.frontend`."""

    settings: FrontendSettings
    client: EngineClient
    started: int
    """Unix time, seconds."""
    http_metrics: HttpMetrics


def frontend_of(request: Request) -> Frontend:
    frontend: Frontend = request.app.state.frontend
    return frontend


async def answer(request: Request, plan: AnswerPlan, style: AnswerStyle) -> Response:
    """The answer that the plan asks for, streamed or whole; given up when the client hangs up."""
    frontend, record = frontend_of(request), record_of(request.scope)
    client, meter = frontend.client, UsageMeter(plan.choices_per_prompt)
    record.planned(plan, meter, frontend.settings.observability.max_log_len)
    if record.traceparent:
        plan = replace(plan, prompts=tuple(replace(prompt, traceparent=record.traceparent) for prompt in plan.prompts))
    if plan.stream:
        return EventStreamResponse(answer_lines(plan, style, client, meter, frontend.settings.max_pending_bytes), record.failed)

    async def whole() -> bytes:
        async with aclosing(answer_events(plan, client)) as events:
            return dumps(await whole_answer(plan, style, events, meter))

    return Response(await run_until_disconnect(request.receive, whole()), media_type="application/json")
