"""The engine step as a Triton model: tensors in, responses out. Knows pb_utils and the engine's surface; decides nothing.

The tensors between the steps: in `request` (JSON of a `GenerateRequest`), `prompt_token_ids` and, if the prompt has images or videos,
`media` and `patches` (`media_tensors.py`); out, per response, `new_token_ids` and
`event` (JSON: key, index, finish_reason, cached_tokens, error, logprobs, final; on a choice's first response also `post`, what postprocess
needs to know of the request, `relay`, where it answers, and `seal`, which shows that the engine said so).
"""

from __future__ import annotations

import gc
import json
import logging
from collections.abc import Callable
from dataclasses import astuple
from functools import partial
from typing import Any

from ..build import CoreMaker, ServingEngine, build_engine
from ..delivery import Response, StopWatch
from ..engine import STOPPED, STOPPING, refusal
from ..engine_metrics import engine_metrics
from ..errors import EngineError, ErnieError
from ..metrics import Histogram, Metric, histogram_metrics
from ..protocol import GenerateRequest
from ..text.tokenizer import Tokenizer
from ..tracing import Tracer
from .defaults import end_token_ids
from .drain import DrainWatch
from .engine_spans import record_answer
from .engine_watch import EngineWatch
from .heartbeat import Heartbeat
from .media_tensors import read_media
from .post_context import PostContext
from .publisher import PublishingThread
from .request_terms import AbortRequest
from .seal import SIGNATURE_LENGTH, Seal, is_same
from .settings import load_settings, set_up_process
from .tensors import error_response, ids_tensor, read_ids, read_text, text_tensor
from .waiting import WaitingRequests, read_word

log = logging.getLogger(__name__)

_TOKENS_PER_RESPONSE = (1, 2, 3, 4, 8, 16, 32, 64, 128)

NOT_FOR_CLIENTS = EngineError("The engine takes requests only from the ensemble `ernie`. Send them there.")


class EngineModel:
    """What `ernie_engine/1/model.py` offers Triton."""

    def __init__(self, pb_utils: Any, make_core: CoreMaker | None = None) -> None:
        """`make_core`: in place of the model's (`build.build_engine`)."""
        self._pb = pb_utils
        self._make_core = make_core
        self._tracer: Tracer | None = None

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model; an `ErnieError` becomes the reason that Triton reports for the failed load."""
        try:
            settings = load_settings(args)
            self._tracer = set_up_process(settings, "engine")
            self._seal = Seal.of_server(args)
            self._tokenizer = Tokenizer.from_folder(settings.model)
            tokenizer = self._tokenizer
            self._serving: ServingEngine = build_engine(
                settings, tokenizer, lambda model: end_token_ids(settings.model, model, tokenizer), self._make_core
            )
        except ErnieError as error:
            raise self._pb.TritonModelException(error.message) from None
        self._requests: dict[str, GenerateRequest] = {}
        self._waiting = WaitingRequests(self._pb, self._seal)
        self._tokens_per_response = Histogram(_TOKENS_PER_RESPONSE)
        self._metrics = PublishingThread(self._pb, self._metrics_of(self._serving), "ernie-housekeeper")
        self._drain_watch = DrainWatch(self._pb, self._serving.draining, self._is_idle, settings.runtime_dir)
        self._heartbeat = Heartbeat(settings, args)
        self._watch = EngineWatch(self._serving, self._tell_all, self._heartbeat.give_up)

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
        """Newer Tritons ask: whether the engine takes requests."""
        return self._serving.fault is None and not self._serving.engine.is_draining

    def finalize(self) -> None:
        """End every stream and thread, so that the server leaves at once."""
        if hasattr(self, "_heartbeat"):
            self._heartbeat.close()
            self._watch.close()
            self._metrics.close()
        if hasattr(self, "_drain_watch"):
            self._drain_watch.close()
        if hasattr(self, "_serving"):
            self._serving.shutdown()
        gc.collect()  # rings may hold senders, and freeing one needs Triton's shared memory, which ends before Python does
        if self._tracer is not None:
            self._tracer.close()

    def _metrics_of(self, serving: ServingEngine) -> list[Metric]:
        engine = serving.engine
        merged = histogram_metrics("ernie_response_tokens", "Tokens that left the engine in one response", self._tokens_per_response)
        text = "Requests that preprocess loads images or videos for, or compiles a grammar"
        preparing = Metric("ernie_requests_in_preparation", text, "gauge", lambda: len(self._waiting))
        return [*engine_metrics(lambda: engine.stats, engine.timeline, serving.config), *merged, preparing]

    def _is_idle(self) -> bool:
        """Whether every answer has left, and postprocess has had all of them; those in preparation, too, have been told that it is over."""
        return not self._requests and not len(self._waiting) and self._serving.delivery.is_idle

    def _submit(self, request: Any, sender: Any) -> None:
        ids = read_ids(self._pb, request, "prompt_token_ids")
        text = read_text(self._pb, request, "request") or ""
        signature, text = text[:SIGNATURE_LENGTH], text[SIGNATURE_LENGTH:]
        media = read_text(self._pb, request, "media") or ""
        if not is_same(signature, self._seal.of_request(text, ids, media)):
            raise NOT_FOR_CLIENTS
        abort = AbortRequest.from_json(text)
        if abort is not None:
            sink = _AbortSink(self._pb, sender, self._seal, self._waiting.abort(abort.tenant, abort.answer_ids))
            self._serving.abort_answers(abort.tenant, abort.answer_ids, sink, sink.hear)
            return
        word = read_word(text)
        if word is not None:
            self._waiting.hear(word, request, sender, stopping=STOPPING if self._serving.engine.is_draining else None)
            return
        generate = GenerateRequest.from_json(text, ids, read_media(self._pb, request))
        if not self._waiting.may_run(generate.key, request, sender):
            return
        if generate.key in self._requests:  # preprocess' answer, sent twice
            raise NOT_FOR_CLIENTS
        self._requests[generate.key] = generate
        forget = partial(self._requests.pop, generate.key, None)
        answer = _TritonSink(self._pb, sender, self._first_response(generate), forget, self._sent(generate))
        stop_watch, request_id = self._stop_watch(generate), generate.request_id
        self._serving.delivery.register(
            generate.key, answer, n=generate.n, streamed=generate.stream, stop_watch=stop_watch, request_id=request_id
        )
        self._serving.submit(generate)

    def _sent(self, generate: GenerateRequest) -> Callable[[Response], object]:
        """What is to be noted of each response that has left."""
        tracer, tokens_per_response = self._tracer, self._tokens_per_response

        def note(response: Response) -> None:
            if response.token_ids:
                tokens_per_response.observe(len(response.token_ids))
            if tracer is not None and response.finish_reason is not None:
                record_answer(tracer, generate, response)

        return note

    def _first_response(self, generate: GenerateRequest) -> dict[str, Any]:
        """What only a choice's first response carries."""
        relay = self._serving.relay.path
        return {"post": generate.post, "relay": relay, "seal": self._seal.of_first_response(generate.key, relay, generate.post)}

    def _stop_watch(self, request: GenerateRequest) -> StopWatch | None:
        """Streamed answers are watched by postprocess; of the others it sees nothing before the end, so they are watched here."""
        context = PostContext.from_json_object(request.post)
        if request.stream or not context.can_stop:
            return None
        readers = [context.reader(self._tokenizer) for _ in range(request.n)]

        def watch(index: int, token_ids: tuple[int, ...]) -> bool:
            readers[index].push(token_ids)
            return readers[index].stopped

        return watch

    def _tell_all(self) -> None:
        """Everyone whose answer is under way hears that it ends here."""
        for generate in list(self._requests.values()):
            self._serving.delivery.push(refusal(generate, STOPPED.to_wire()))

    def _refuse(self, sender: Any, error: ErnieError) -> None:
        sender.send(error_response(self._pb, error), flags=self._pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


class _TritonSink:
    """One request's way back to Triton. The last response carries the final flag: a separate, late one hangs clients.

    Whatever happens, there is exactly one final flag: if a response cannot be made or sent, an error takes its place and ends the request.
    """

    def __init__(
        self, pb_utils: Any, sender: Any, first: dict[str, Any], on_end: Callable[[], object], on_sent: Callable[[Response], object]
    ) -> None:
        self._pb = pb_utils
        self._sender = sender
        self._first = first
        self._on_end = on_end
        self._on_sent = on_sent

    def send(self, response: Response) -> None:
        """Send one response; raises if it could not be sent, and then the request has ended."""
        final = self._pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL
        try:
            self._sender.send(self._triton_response(response), flags=final if response.is_final else 0)
        except Exception:
            self._on_end()
            error = EngineError("The server could not deliver this answer. Try again; if it happens again, see the server's log.")
            self._sender.send(error_response(self._pb, error), flags=final)
            raise
        self._on_sent(response)
        if response.is_final:
            self._on_end()

    def _triton_response(self, response: Response) -> Any:
        event: dict[str, Any] = {
            "key": response.key,
            "index": response.index,
            "finish_reason": response.finish_reason.value if response.finish_reason else None,
            "cached_tokens": response.num_cached_tokens,
            "error": response.error,
            "logprobs": [[p.logprob, p.top_token_ids, p.top_logprobs] for p in response.logprobs] or None,
            "final": response.is_final,
            "timings": astuple(response.timings) if response.timings else None,
            **(self._first if response.is_first else dict.fromkeys(self._first)),
        }
        ids = ids_tensor(self._pb, "new_token_ids", response.token_ids)
        return self._pb.InferenceResponse(output_tensors=[ids, text_tensor(self._pb, "event", json.dumps(event, separators=(",", ":")))])


class _AbortSink:
    """Tells which requests a request to end others has ended."""

    def __init__(self, pb_utils: Any, sender: Any, seal: Seal, in_preprocess: tuple[str, ...]) -> None:
        """`in_preprocess`: the answer ids of those that had not yet come to the engine."""
        self._pb = pb_utils
        self._sender = sender
        self._seal = seal
        self._aborted = in_preprocess

    def hear(self, aborted: tuple[str, ...]) -> None:
        self._aborted = tuple(dict.fromkeys((*self._aborted, *aborted)))

    def send(self, response: Response) -> None:
        event = {"key": response.key, "aborted": self._aborted, "seal": self._seal.of_aborted(response.key, self._aborted)}
        tensors = [ids_tensor(self._pb, "new_token_ids", ()), text_tensor(self._pb, "event", json.dumps(event, separators=(",", ":")))]
        self._sender.send(self._pb.InferenceResponse(output_tensors=tensors), flags=self._pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
