"""A real receiver of OTLP over HTTP on loopback: decodes what comes and keeps the spans."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse


@dataclass(frozen=True)
class ReceivedSpan:
    """Ids in hex, as `traceparent` spells them; times in Unix nanoseconds."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    start: int
    end: int
    process: str
    attributes: dict[str, Any]
    is_error: bool


class OtlpReceiver:
    """`close` when done."""

    def __init__(self) -> None:
        spans: list[ReceivedSpan] = []
        self._spans = spans

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.path == "/v1/traces":
                    spans.extend(_decoded(body))
                self.send_response(200 if self.path == "/v1/traces" else 404)
                self.send_header("content-type", "application/x-protobuf")
                self.end_headers()
                self.wfile.write(ExportTraceServiceResponse().SerializeToString())

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def spans(self, trace_id: str) -> list[ReceivedSpan]:
        return [span for span in list(self._spans) if span.trace_id == trace_id]

    def trace_ids(self) -> set[str]:
        return {span.trace_id for span in list(self._spans)}

    def wait_for_another(self, known: set[str], seconds: float = 20.0) -> set[str]:
        """The traces that are not among `known`, once there is one."""
        deadline = time.monotonic() + seconds
        while not (found := self.trace_ids() - known):
            assert time.monotonic() < deadline, "no other trace"
            time.sleep(0.1)
        return found

    def wait_for(self, trace_id: str, count: int, seconds: float = 20.0) -> dict[str, ReceivedSpan]:
        """The spans of a trace by name, once there are so many."""
        return {span.name: span for span in self.wait_until(trace_id, lambda spans: len(spans) >= count, seconds)}

    def wait_until(self, trace_id: str, enough: Callable[[list[ReceivedSpan]], bool], seconds: float = 20.0) -> list[ReceivedSpan]:
        deadline = time.monotonic() + seconds
        while not enough(spans := self.spans(trace_id)):
            assert time.monotonic() < deadline, f"only {[span.name for span in spans]}"
            time.sleep(0.1)
        return spans

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _decoded(body: bytes) -> list[ReceivedSpan]:
    found = []
    for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        resource = _attributes(of_resource.resource.attributes)
        assert resource["service.name"] == "ernie-triton"
        for scope in of_resource.scope_spans:
            found += [_span(span, str(resource["ernie.process"])) for span in scope.spans]
    return found


def _span(span: Any, process: str) -> ReceivedSpan:
    return ReceivedSpan(
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        start=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
        process=process,
        attributes=_attributes(span.attributes),
        is_error=span.status.code == 2,
    )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}
