"""The postprocess step as a Triton model: the engine's tensors in, the ensemble's outputs out. Decides nothing and never raises."""

from __future__ import annotations

import logging
from typing import Any

from ..errors import ErnieError
from ..metrics import Metric
from ..relay import RelaySender
from ..text.tokenizer import Tokenizer
from ..tracing import Tracer
from .heartbeat import Heartbeat
from .postprocess import PostOutputs, Postprocessor
from .publisher import PublishingThread
from .seal import Seal
from .settings import load_settings, set_up_process
from .tensors import ids_tensor, read_bytes, read_ids, text_tensor

log = logging.getLogger(__name__)


class PostprocessModel:
    """What `ernie_postprocess/1/model.py` offers Triton."""

    def __init__(self, pb_utils: Any) -> None:
        self._pb = pb_utils
        self._postprocessor: Postprocessor | None = None
        self._metrics: PublishingThread | None = None
        self._tracer: Tracer | None = None
        self._heartbeat: Heartbeat | None = None

    def initialize(self, args: dict[str, str]) -> None:
        """An `ErnieError` becomes the reason that Triton reports for the failed load."""
        try:
            settings = load_settings(args)
            self._tracer = set_up_process(settings, "postprocess")
            tokenizer = Tokenizer.from_folder(settings.model)
            every = settings.acknowledge_every_responses
            self._postprocessor = Postprocessor(tokenizer, RelaySender, Seal.of_server(args), every, self._tracer)
        except ErnieError as error:
            raise self._pb.TritonModelException(error.message) from None
        self._metrics = PublishingThread(self._pb, [self._streams()], "ernie-postprocess-metrics")
        self._heartbeat = Heartbeat(settings, args)

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response per engine response, in order."""
        return [self._respond(request) for request in requests]

    def finalize(self) -> None:
        """Stop the heartbeat, let go of the metrics and close the relay."""
        if self._heartbeat is not None:
            self._heartbeat.close()
            self._heartbeat = None
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None
        if self._postprocessor is not None:
            self._postprocessor.close()
            self._postprocessor = None
        if self._tracer is not None:
            self._tracer.close()
            self._tracer = None

    def _streams(self) -> Metric:
        """Must fall to 0 when no request runs."""
        postprocessor = self._postprocessor
        assert postprocessor is not None
        text = "Choices that postprocess holds state of"
        return Metric("ernie_postprocess_streams", text, "gauge", lambda: len(postprocessor))

    def _respond(self, request: Any) -> Any:
        assert self._postprocessor is not None
        event = read_bytes(self._pb, request, "event") or b""
        ids = read_ids(self._pb, request, "new_token_ids")
        outputs = self._postprocessor.process(event, ids, cancelled=request.is_cancelled())
        return self._pb.InferenceResponse(output_tensors=self._tensors(outputs))

    def _tensors(self, outputs: PostOutputs) -> list[Any]:
        """All of the signature, also those that say nothing: clients read them from every response."""
        pb = self._pb
        texts = ("text_output", "reasoning_output", "tool_calls", "finish_reason", "logprobs", "usage", "error")
        return [
            *(text_tensor(pb, name, getattr(outputs, name)) for name in texts),
            ids_tensor(pb, "token_ids", outputs.token_ids),
            ids_tensor(pb, "index", (outputs.index,)),
        ]
