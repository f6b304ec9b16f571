"""The outermost middleware: names each request, and at its end logs, counts and traces it. Pure ASGI; knows no field of a body."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ernie_backend.log_format import current_request
from ernie_backend.tracing import Tracer

from .errors import CLIENT_REQUEST_ID, REQUEST_ID_HEADER
from .http_metrics import HttpMetrics
from .request_record import RequestRecord, record_of

access_log = logging.getLogger("ernie_openai.access")

UNKNOWN_ROUTE = "unknown"
"""Of every path that is no route: whoever tries paths must not make series."""
_QUIET = ("/health", "/ping", "/metrics")
"""Asked every few seconds by machines."""


class ObservingMiddleware:
    def __init__(self, app: ASGIApp, *, metrics: HttpMetrics, logs: bool, tracer: Tracer | None) -> None:
        self.app = app
        self._metrics = metrics
        self._logs = logs
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        record = record_of(scope)
        current_request.set(record.id)
        if self._tracer is not None and scope["path"] not in _QUIET:
            headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"] if key.startswith(b"trace")}
            record.span = self._tracer.begin(scope["method"], record.started_at, headers, is_server=True)

        async def watched_receive() -> Message:
            message = await receive()
            if message["type"] == "http.disconnect" and not record.complete:
                record.hung_up = True
            return message

        async def watched_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                message = {
                    **message,
                    "headers": [*message.get("headers", ()), (REQUEST_ID_HEADER.encode(), record.id.encode("latin-1", "replace"))],
                }
            elif record.first_byte_at is None:
                record.first_byte_at = time.monotonic()
            await send(message)
            record.complete = message["type"] == "http.response.body" and not message.get("more_body", False)

        self._metrics.began()
        try:
            await self.app(scope, watched_receive, watched_send)
        finally:
            self._ended(scope, record)

    def _ended(self, scope: Scope, record: RequestRecord) -> None:
        now = time.monotonic()
        route = _route(scope)
        status = record.status or 500
        self._metrics.ended(route, status, now - record.started_at)
        if self._logs and route not in _QUIET:
            client_id = scope.get(CLIENT_REQUEST_ID)
            named = {} if client_id is None else {"client_request_id": client_id}
            extra = {"request_id": record.id, "fields": {"route": route, **record.fields(now), **named}}
            access_log.info("%s %s", scope["method"], _on_one_line(scope["path"][:200]), extra=extra)
        if record.span is not None:
            self._end_span(scope, record, route, now)

    @staticmethod
    def _end_span(scope: Scope, record: RequestRecord, route: str, now: float) -> None:
        assert record.span is not None
        attributes: dict[str, Any] = {
            "http.request.method": scope["method"],
            "http.route": route,
            "http.response.status_code": record.status,
            "ernie.request_id": record.id,
        }
        if record.plan is not None and record.meter is not None:
            usage = record.meter.total()
            attributes["gen_ai.response.model"] = record.plan.model
            attributes["gen_ai.usage.input_tokens"] = usage["prompt_tokens"]
            attributes["gen_ai.usage.output_tokens"] = usage["completion_tokens"]
        error = record.error.message if record.error is not None else f"status {record.status}" if record.status >= 500 else None
        if record.hung_up:  # whatever ended its answer then, it went by itself
            error = None
        record.span.end(now, attributes, error=error, name=f"{scope['method']} {route}")


def _on_one_line(path: str) -> str:
    """Decoded, it may hold line breaks, with which a client would write lines of his own."""
    return path if path.isprintable() else json.dumps(path)


def _route(scope: Scope) -> str:
    return getattr(scope.get("route"), "path", UNKNOWN_ROUTE)
