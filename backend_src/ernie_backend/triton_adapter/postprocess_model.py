"""The postprocess step as a Triton model: the engine's tensors in, the ensemble's outputs out. Decides nothing and never raises."""

from __future__ import annotations

import logging
import threading
from typing import Any

from ..errors import ErnieError
from ..relay import RelaySender
from ..text.tokenizer import Tokenizer
from .heartbeat import Heartbeat
from .postprocess import PostOutputs, Postprocessor
from .seal import Seal
from .settings import load_settings
from .tensors import ids_tensor, read_bytes, read_ids, text_tensor

log = logging.getLogger(__name__)

GAUGE_INTERVAL_SECONDS = 1.0
"""A metric update is a round trip on the channel of the tokens: once a second, and only when the number changed."""


class PostprocessModel:
    """What `ernie_postprocess/1/model.py` offers Triton."""

    def __init__(self, pb_utils: Any) -> None:
        self._pb = pb_utils
        self._postprocessor: Postprocessor | None = None
        self._gauge: _StreamsGauge | None = None
        self._heartbeat: Heartbeat | None = None

    def initialize(self, args: dict[str, str]) -> None:
        """An `ErnieError` becomes the reason that Triton reports for the failed load."""
        try:
            settings = load_settings(args)
            self._postprocessor = Postprocessor(Tokenizer.from_folder(settings.model), RelaySender, Seal.of_server(args))
        except ErnieError as error:
            raise self._pb.TritonModelException(error.message) from None
        self._gauge = _StreamsGauge(self._pb, self._postprocessor)
        self._heartbeat = Heartbeat(settings, args)

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response per engine response, in order."""
        return [self._respond(request) for request in requests]

    def finalize(self) -> None:
        """Stop heartbeat and gauge, and close the relay."""
        if self._heartbeat is not None:
            self._heartbeat.close()
            self._heartbeat = None
        if self._gauge is not None:
            self._gauge.close()
            self._gauge = None
        if self._postprocessor is not None:
            self._postprocessor.close()
            self._postprocessor = None

    def _respond(self, request: Any) -> Any:
        assert self._postprocessor is not None
        event = read_bytes(self._pb, request, "event") or b""
        ids = read_ids(self._pb, request, "new_token_ids")
        outputs = self._postprocessor.process(event, ids, cancelled=request.is_cancelled())
        return self._pb.InferenceResponse(output_tensors=self._tensors(outputs))

    def _tensors(self, outputs: PostOutputs) -> list[Any]:
        texts = ("text_output", "reasoning_output", "tool_calls", "finish_reason", "logprobs", "usage", "error")
        return [
            *(text_tensor(self._pb, name, getattr(outputs, name)) for name in texts),
            ids_tensor(self._pb, "token_ids", outputs.token_ids),
            ids_tensor(self._pb, "index", (outputs.index,)),
        ]


class _StreamsGauge:
    """Publishes how many choices postprocess holds state of: must fall to 0 when no request runs."""

    def __init__(self, pb_utils: Any, postprocessor: Postprocessor) -> None:
        self._postprocessor = postprocessor
        self._family = pb_utils.MetricFamily(
            name="ernie_postprocess_streams", description="Choices that postprocess holds state of", kind=pb_utils.MetricFamily.GAUGE
        )
        self._metric = self._family.Metric(labels={})
        self._published = -1
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ernie-postprocess-gauge", daemon=True)
        self._publish()
        self._thread.start()

    def close(self) -> None:
        """End the thread, then let go of the metric: in this order, or the server may crash at shutdown."""
        self._closing.set()
        self._thread.join(5)
        self._metric = self._family = None

    def _run(self) -> None:
        while not self._closing.wait(GAUGE_INTERVAL_SECONDS):
            self._publish()

    def _publish(self) -> None:
        value = len(self._postprocessor)
        if value != self._published:
            self._metric.set(value)
            self._published = value
