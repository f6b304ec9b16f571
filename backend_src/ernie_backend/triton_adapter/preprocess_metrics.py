"""What preprocess counts and traces of each request; knows pb_utils no more than by `Metric`, and no tensor."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..engine_metrics import REJECTED, REJECTION_STATUSES
from ..errors import ErnieError
from ..media.usage import MediaUsage
from ..metrics import Histogram, Metric, histogram_metrics
from ..protocol import GenerateRequest, MediaKind
from ..tracing import Span, Tracer

_TRACE_ID = slice(3, 35)
"""Of a `traceparent`: version, trace id, span id, flags."""
_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5, 30)


@dataclass(frozen=True)
class Origin:
    """Where a request came from: what its logs, its times and its spans begin with."""

    request_id: str
    arrived_at: float
    """CLOCK_MONOTONIC, seconds."""
    span: Span | None
    traceparent: str
    """What the engine's and postprocess's spans belong to."""

    def mark(self, generate: GenerateRequest) -> GenerateRequest:
        """The request, with what the later steps must know of its origin."""
        post = {**generate.post, "request_id": self.request_id, "traceparent": self.traceparent}
        return replace(generate, request_id=self.request_id, arrived_at=self.arrived_at, traceparent=self.traceparent, post=post)


class PreprocessWatch:
    """For several threads at once."""

    def __init__(self, tracer: Tracer | None) -> None:
        self._tracer = tracer
        self._lock = threading.Lock()
        self._seconds = Histogram(_SECONDS)
        self._rejected: dict[int, int] = {}

    @property
    def traces(self) -> bool:
        return self._tracer is not None

    def arrived(self, request_id: str, trace_context: Mapping[str, str]) -> Origin:
        """A request of no trace begins one, whose root is the span of this step."""
        now = time.monotonic()
        if self._tracer is None:
            return Origin(request_id, now, None, "")
        span = self._tracer.begin("preprocess", now, trace_context)
        given = trace_context.get("traceparent", "")
        was_taken = given[_TRACE_ID] == span.traceparent[_TRACE_ID]  # one that is malformed names no trace
        return Origin(request_id, now, span, given if was_taken else span.traceparent)

    def answered(self, origin: Origin, generate: GenerateRequest | None, error: ErnieError | None) -> None:
        """One of the two is there."""
        now = time.monotonic()
        with self._lock:
            self._seconds.observe(now - origin.arrived_at)
            if error is not None:
                self._rejected[error.http_status] = self._rejected.get(error.http_status, 0) + 1
        if origin.span is not None:
            attributes: dict[str, str | int] = {"ernie.request_id": origin.request_id}
            if generate is not None:
                attributes |= {"gen_ai.usage.input_tokens": len(generate.prompt_token_ids), "ernie.media_items": len(generate.media)}
            origin.span.end(now, attributes, error=None if error is None else error.message)

    def metrics(self, media: MediaUsage | None) -> list[Metric]:
        """`media`: of a model that takes images."""
        found = histogram_metrics("ernie_preprocess_seconds", "From arrival to the engine's request, media included", self._seconds)
        for status in REJECTION_STATUSES:
            read = lambda status=status: self._rejected.get(status, 0)  # noqa: E731
            found.append(Metric(*REJECTED, "counter", read, {"status": str(status)}))
        if media is not None:
            found += _media_metrics(media)
        return found

    def close(self) -> None:
        """Send the spans that are left."""
        if self._tracer is not None:
            self._tracer.close()


def _media_metrics(usage: MediaUsage) -> list[Metric]:
    found = [
        Metric("ernie_media_bytes_total", "Bytes of images and videos as they came", "counter", _bytes(usage, kind), {"kind": kind.value})
        for kind in MediaKind
    ]
    found += histogram_metrics("ernie_media_fetch_seconds", "To fetch an image or video", usage.fetch_seconds)
    return found + histogram_metrics("ernie_media_decode_seconds", "To decode and resize an image or video", usage.decode_seconds)


def _bytes(usage: MediaUsage, kind: MediaKind):
    return lambda: usage.bytes[kind]
