"""OpenTelemetry spans over OTLP: W3C contexts in, finished spans out. A leaf; the library is imported only where tracing was asked for.

Spans are made from moments that were noted anyway (seconds of CLOCK_MONOTONIC, which the processes of one machine share), when what they
describe is over. A batch processor sends them from a thread of its own; if nobody listens there, they are dropped.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from .errors import ConfigError

SERVICE_NAME = "ernie-triton"
_TRACES_PATH = "/v1/traces"

Attribute = str | int | float | bool


def traces_url(given: str) -> str:
    """The endpoint with OTLP's own path if it has none. `ConfigError` for what is no http(s) URL."""
    parts = urlsplit(given)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(
            f"--otlp-traces-endpoint must be an http:// or https:// URL such as http://127.0.0.1:4318, got {given!r}.",
            param="otlp_traces_endpoint",
        )
    return given if parts.path.strip("/") else given.rstrip("/") + _TRACES_PATH


def check_installed() -> None:
    """`ConfigError` if the library is missing."""
    for package in ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"):
        try:
            found = importlib.util.find_spec(package)
        except ModuleNotFoundError:
            found = None
        if found is None:
            raise ConfigError(
                "--otlp-traces-endpoint needs the [tracing] extra: pip install 'ernie-triton[tracing]'.", param="otlp_traces_endpoint"
            )


class Span:
    """One that has begun. `traceparent` names it as a parent."""

    def __init__(self, span: Any, traceparent: str) -> None:
        self._span = span
        self.traceparent = traceparent

    def end(self, at: float, attributes: Mapping[str, Attribute], *, error: str | None = None, name: str | None = None) -> None:
        """`at`: CLOCK_MONOTONIC, seconds. `error` makes it a failed one; `name`: a better one than at its beginning."""
        from opentelemetry.trace import Status, StatusCode

        if name is not None:
            self._span.update_name(name)
        self._span.set_attributes(attributes)
        if error is not None:
            self._span.set_status(Status(StatusCode.ERROR, error))
        self._span.end(_unix_ns(at))


class Tracer:
    """One process's spans. `close` sends what is left."""

    def __init__(self, endpoint: str, process: str) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = TracerProvider(resource=Resource.create({"service.name": SERVICE_NAME, "ernie.process": process}))
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint), schedule_delay_millis=1000))
        self._tracer = self._provider.get_tracer("ernie_backend")
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, name: str, at: float, parent: Mapping[str, str], *, is_server: bool = False) -> Span:
        """A span that begins at `at`. `parent`: W3C headers in lower case; without a valid `traceparent` a new trace begins."""
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind, set_span_in_context

        context = self._propagator.extract(parent, context=Context())
        kind = SpanKind.SERVER if is_server else SpanKind.INTERNAL
        span = self._tracer.start_span(name, context=context, kind=kind, start_time=_unix_ns(at))
        headers: dict[str, str] = {}
        self._propagator.inject(headers, set_span_in_context(span, Context()))
        return Span(span, headers.get("traceparent", ""))

    def record(
        self, name: str, start: float, end: float, traceparent: str, attributes: Mapping[str, Attribute], *, error: str | None = None
    ) -> None:
        """A span that is over."""
        self.begin(name, start, {"traceparent": traceparent}).end(end, attributes, error=error)

    def close(self) -> None:
        self._provider.shutdown()


def _unix_ns(monotonic_seconds: float) -> int:
    return int(monotonic_seconds * 1e9) + time.time_ns() - time.monotonic_ns()
