"""What is known of one HTTP request by its end: for the access log, the metrics and the trace. Filled by the routes; decides nothing."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Scope

from ernie_backend.errors import ErnieError
from ernie_backend.log_format import current_request
from ernie_backend.tracing import Span

from .answers import UsageMeter
from .convert import AnswerPlan

_KEY = "ernie.request_record"


@dataclass
class RequestRecord:
    """One per request, in its ASGI scope."""

    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Minted here; once the request has been read, the answer's id."""
    started_at: float = field(default_factory=time.monotonic)
    first_byte_at: float | None = None
    """Of the body; both CLOCK_MONOTONIC, seconds."""
    status: int = 0
    complete: bool = False
    """The answer's last byte was sent."""
    hung_up: bool = False
    """The client went before."""
    plan: AnswerPlan | None = None
    meter: UsageMeter | None = None
    prompt: str | None = None
    """As much of it as may be logged."""
    error: ErnieError | None = None
    """What ended the answer after its first byte, when the status could not tell any more."""
    span: Span | None = None

    def planned(self, plan: AnswerPlan, meter: UsageMeter, max_log_len: int) -> None:
        """From here on the request is called by the id of its answer."""
        self.id, self.plan, self.meter = plan.id, plan, meter
        current_request.set(plan.id)
        if max_log_len:
            first = plan.prompts[0]
            self.prompt = (first.text_input or first.chat or "")[:max_log_len]

    def failed(self, error: ErnieError) -> None:
        self.error = error

    @property
    def traceparent(self) -> str:
        """What the spans behind this one belong to; empty if nothing is traced."""
        return self.span.traceparent if self.span is not None else ""

    def fields(self, now: float) -> dict[str, Any]:
        """Of the access log's line."""
        found: dict[str, Any] = {"status": self.status, "duration_ms": _ms(now - self.started_at)}
        if self.plan is not None and self.meter is not None:
            usage = self.meter.total()
            found |= {"model": self.plan.model, "stream": self.plan.stream, "prompt_tokens": usage["prompt_tokens"]}
            found |= {"cached_tokens": usage["prompt_tokens_details"]["cached_tokens"], "completion_tokens": usage["completion_tokens"]}
            if self.first_byte_at is not None:
                found["first_byte_ms"] = _ms(self.first_byte_at - self.started_at)
        if self.hung_up:
            found["hung_up"] = True
        elif self.error is not None:
            found["error"] = self.error.code
        if self.prompt is not None:
            found["prompt"] = self.prompt
        return found


def record_of(scope: Scope) -> RequestRecord:
    """The request's record; one that nobody reads where nothing is observed."""
    if _KEY not in scope:
        given = scope.get("ernie.request_id")  # where a middleware before us has named the request already
        scope[_KEY] = RequestRecord(id=given) if given else RequestRecord()
    record: RequestRecord = scope[_KEY]
    return record


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 3)
