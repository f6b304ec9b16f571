"""The engine step as a Triton model: tensors in, responses out. Knows pb_utils and the engine's surface; decides nothing.

The tensors between the steps: in `request` (JSON of a `GenerateRequest`) and `prompt_token_ids`; out, per response, `new_token_ids` and
`event` (JSON: key, index, finish_reason, cached_tokens, error, logprobs, final; on a choice's first response also `post`, what postprocess
needs to know of the request, and `relay`, where it answers).
"""

from __future__ import annotations

import json
import logging
import threading
from typing import Any

import numpy as np

from ..build import ServingEngine, build_engine
from ..delivery import Response, StopWatch
from ..errors import EngineError, ErnieError
from ..metrics import ENGINE_METRICS
from ..protocol import GenerateRequest
from ..text.detokenizer import Detokenizer
from ..text.stop_strings import StopStringMatcher
from ..text.tokenizer import Tokenizer
from .settings import load_settings
from .tensors import read_text

log = logging.getLogger(__name__)

METRICS_INTERVAL_SECONDS = 1.0
"""Each metric update is a round trip on the same channel as the tokens: once a second, and never per token."""


class EngineModel:
    """What `ernie_engine/1/model.py` offers Triton."""

    def __init__(self, pb_utils: Any) -> None:
        self._pb = pb_utils

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model; an `ErnieError` becomes the reason that Triton reports for the failed load."""
        try:
            settings = load_settings(args)
            self._tokenizer = Tokenizer.from_folder(settings.model)
            self._serving: ServingEngine = build_engine(settings)
        except ErnieError as error:
            raise self._pb.TritonModelException(error.message) from None
        self._metrics = _MetricsPublisher(self._pb, self._serving)

    def execute(self, requests: list[Any]) -> None:
        """Hand each request to the engine and return at once; answers come from the delivery thread."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                self._submit(request, sender)
            except ErnieError as error:
                self._refuse(sender, error)
            except Exception:
                log.exception("a request could not be read")
                self._refuse(sender, EngineError("The engine could not read this request. Send it through the ensemble `ernie`."))
        return None

    def is_ready(self) -> bool:
        """Newer Tritons ask: whether the engine thread answers requests."""
        return self._serving.engine.is_alive

    def finalize(self) -> None:
        """End every stream and thread, so that the server leaves at once."""
        if hasattr(self, "_metrics"):
            self._metrics.close()
        if hasattr(self, "_serving"):
            self._serving.shutdown()

    def _submit(self, request: Any, sender: Any) -> None:
        ids = self._pb.get_input_tensor_by_name(request, "prompt_token_ids").as_numpy()
        text = read_text(self._pb, request, "request")
        assert text is not None
        generate = GenerateRequest.from_json(text, tuple(ids.ravel().tolist()))
        limit = self._serving.config.max_model_len
        assert limit is not None
        if not 0 < len(generate.prompt_token_ids) < limit:
            raise EngineError("The engine takes requests only from the ensemble `ernie`, which checks them.")
        sink = _TritonSink(self._pb, sender, generate.post, self._serving.relay.path)
        self._serving.delivery.register(generate.key, sink, n=generate.n, streamed=generate.stream, stop_watch=self._stop_watch(generate))
        self._serving.engine.submit(generate)

    def _stop_watch(self, request: GenerateRequest) -> StopWatch | None:
        """Streamed answers are watched by postprocess; of the others it sees nothing before the end, so they are watched here."""
        if request.stream or not request.stop:
            return None
        skip = bool(request.post["skip_special_tokens"])
        detokenizers = [Detokenizer(self._tokenizer, skip_special_tokens=skip) for _ in range(request.n)]
        matchers = [StopStringMatcher(request.stop, include_stop=False) for _ in range(request.n)]

        def watch(index: int, token_ids: tuple[int, ...]) -> bool:
            _, stopped = matchers[index].push(detokenizers[index].push(list(token_ids)))
            return stopped

        return watch

    def _refuse(self, sender: Any, error: ErnieError) -> None:
        response = self._pb.InferenceResponse(error=self._pb.TritonError(error.to_wire()))
        sender.send(response, flags=self._pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


class _TritonSink:
    """One request's way back to Triton. The last response carries the final flag: a separate, late one hangs clients."""

    def __init__(self, pb_utils: Any, sender: Any, post: dict[str, Any], relay_path: str) -> None:
        self._pb = pb_utils
        self._sender = sender
        self._post = post
        self._relay_path = relay_path

    def send(self, response: Response) -> None:
        event: dict[str, Any] = {
            "key": response.key,
            "index": response.index,
            "finish_reason": response.finish_reason.value if response.finish_reason else None,
            "cached_tokens": response.num_cached_tokens,
            "error": response.error,
            "logprobs": [[p.logprob, p.top_token_ids, p.top_logprobs] for p in response.logprobs] or None,
            "final": response.is_final,
            "post": self._post if response.is_first else None,
            "relay": self._relay_path if response.is_first else None,
        }
        tensors = [
            self._pb.Tensor("new_token_ids", np.asarray(response.token_ids, dtype=np.int32)),
            self._pb.Tensor("event", np.asarray([json.dumps(event, separators=(",", ":"))], dtype=np.object_)),
        ]
        flags = self._pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL if response.is_final else 0
        self._sender.send(self._pb.InferenceResponse(output_tensors=tensors), flags=flags)


class _MetricsPublisher:
    """Copies the engine's counts into Triton's /metrics once a second."""

    def __init__(self, pb_utils: Any, serving: ServingEngine) -> None:
        self._serving = serving
        kinds = {"counter": pb_utils.MetricFamily.COUNTER, "gauge": pb_utils.MetricFamily.GAUGE}
        help_and_kind = {m.name: (m.help, kinds[m.kind]) for m in ENGINE_METRICS}
        self._families = {
            name: pb_utils.MetricFamily(name=name, description=text, kind=kind) for name, (text, kind) in help_and_kind.items()
        }
        self._metrics = [self._families[m.name].Metric(labels=m.labels) for m in ENGINE_METRICS]
        self._published = [0.0] * len(ENGINE_METRICS)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ernie-metrics", daemon=True)
        self._publish()
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._thread.join(5)
        self._metrics.clear()
        self._families.clear()

    def _run(self) -> None:
        while not self._closing.wait(METRICS_INTERVAL_SECONDS):
            self._publish()

    def _publish(self) -> None:
        stats = self._serving.engine.stats
        for i, (metric, triton_metric) in enumerate(zip(ENGINE_METRICS, self._metrics, strict=True)):
            value = float(metric.read(stats))
            if value == self._published[i]:
                continue
            if metric.kind == "counter":
                triton_metric.increment(value - self._published[i])
            else:
                triton_metric.set(value)
            self._published[i] = value
