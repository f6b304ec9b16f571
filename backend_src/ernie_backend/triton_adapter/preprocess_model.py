"""The preprocess step as a Triton model: tensors in, the engine's tensors out, when they are there. Decides nothing."""

from __future__ import annotations

import gc
import importlib.util
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

from ..config import EngineConfig, ModelConfig
from ..engine import STOPPING
from ..errors import ConfigError, EngineError, ErnieError, InvalidRequestError
from ..log_format import current_request
from ..media.patches import LoadedMedia
from ..protocol import GenerateRequest
from ..text.helper_process import find_python
from .heartbeat import Heartbeat
from .media_tensors import media_json, media_tensors
from .preprocess import PreparedRequest, Preprocessor, RequestInputs
from .preprocess_metrics import Origin, PreprocessWatch
from .publisher import PublishingThread
from .request_terms import AbortRequest, read_abort, read_terms
from .seal import Seal
from .settings import load_settings, set_up_process
from .tensors import (
    all_parameters,
    error_response,
    ids_tensor,
    read_bool,
    read_int,
    read_parameters,
    read_text,
    read_texts,
    read_trace_context,
    text_tensor,
)
from .waiting import Pulse, Refusal
from .waiting_room import Waiter, WaitingRoom

if TYPE_CHECKING:
    from ..media.pool import MediaPool

log = logging.getLogger(__name__)

_MEDIA_LIBRARIES = ("PIL", "av", "httpcore2")

_FLAGS = ("stream", "exclude_input_in_output")
"""Inputs that clients of other LLM backends put into `parameters` of /generate."""


def _flag(parameters: Mapping[str, Any], name: str) -> bool | None:
    value = parameters.get(name)
    if value is not None and not isinstance(value, bool):
        raise InvalidRequestError(f"{name} must be true or false.", param=name)
    return value


class PreprocessModel:
    """What `ernie_preprocess/1/model.py` offers Triton.

    Decoupled, with one response per request and, while it waits, pulses before it. A request without media and without a new grammar is
    answered within `execute`. Others are checked and rendered there, and wait: a hung host holds up its own request and no other, and an
    abort comes through at once.
    """

    def __init__(self, pb_utils: Any) -> None:
        self._pb = pb_utils
        self._preprocessor: Preprocessor | None = None
        self._pool: MediaPool | None = None
        self._room: WaitingRoom | None = None
        self._compiling = ThreadPoolExecutor(1, "ernie-grammars")
        self._heartbeat: Heartbeat | None = None
        self._metrics: PublishingThread | None = None

    def initialize(self, args: dict[str, str]) -> None:
        """An `ErnieError` becomes the reason that Triton reports for the failed load."""
        try:
            config = load_settings(args)
            self._watch = PreprocessWatch(set_up_process(config, "preprocess"))
            self._preprocessor = Preprocessor(config, ModelConfig.from_folder(config.model))
            self._pool = _media_pool(config, self._preprocessor)
            self._seal = Seal.of_server(args)
            instance = args.get("model_instance_name", "").removeprefix("ernie_preprocess")
            self._room = WaitingRoom(config.runtime_dir, f"pre{instance}.sock")  # short: a socket's path may have 107 bytes
        except ErnieError as error:
            raise self._pb.TritonModelException(error.message) from None
        self._heartbeat = Heartbeat(config, args)
        usage = None if self._pool is None else self._pool.usage
        self._metrics = PublishingThread(self._pb, self._watch.metrics(usage), "ernie-preprocess-metrics")

    def execute(self, requests: list[Any]) -> None:
        """Each request gets its one response from its own sender; a refused one touches no other."""
        for request in requests:
            sender = request.get_response_sender()
            origin = self._watch.arrived(request.request_id(), read_trace_context(request) if self._watch.traces else {})
            self._answer(sender, origin, partial(self._begin, request, sender, origin))

    def finalize(self) -> None:
        """End heartbeat, metrics, downloads and the helper processes of template and grammars."""
        if self._heartbeat is not None:
            self._heartbeat.close()
            self._heartbeat = None
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None
            self._watch.close()
        self._compiling.shutdown(wait=True, cancel_futures=True)  # before what it hands its requests on to
        if self._pool is not None:
            self._pool.close()
            self._pool = None
        if self._room is not None:
            self._room.close()
            self._room = None
        if self._preprocessor is not None:
            self._preprocessor.close()
            self._preprocessor = None
        gc.collect()  # as in the engine

    def _begin(self, request: Any, sender: Any, origin: Origin) -> GenerateRequest | AbortRequest | None:
        """The request for the engine; None if it waits."""
        assert self._preprocessor is not None
        preprocessor = self._preprocessor
        abort = read_abort(all_parameters(request))
        if abort is not None:
            return abort
        prepared = preprocessor.prepare(self._inputs(request))
        if prepared.is_complete:
            return preprocessor.finish(prepared)
        self._wait(prepared, sender, origin)
        return None

    def _wait(self, prepared: PreparedRequest, sender: Any, origin: Origin) -> None:
        """Have its grammar compiled, then its images and videos loaded."""
        assert self._room is not None and self._preprocessor is not None
        preprocessor, terms = self._preprocessor, prepared.inputs.terms
        waiter = Waiter(
            prepared.key,
            terms.answer_id,
            terms.tenant,
            is_streamed=bool(prepared.inputs.stream),
            send=lambda pulse: sender.send(self._pb.InferenceResponse(output_tensors=self._outputs(pulse))),
            refuse=lambda error: self._answer(sender, origin, partial(_raise, error), prepared.key),
            deadline=terms.deadline,
        )

        def answer(make: Callable[[], GenerateRequest | None]) -> None:
            if self._room is not None and self._room.leave(waiter):
                self._answer(sender, origin, make, prepared.key)

        def load(complete: PreparedRequest) -> None:
            assert self._pool is not None, "only a model with media settings lets media through"
            self._pool.load(
                complete.media, complete.media_settings, lambda loaded: answer(partial(finish, complete, loaded)), waiter.signal
            )

        def finish(complete: PreparedRequest, loaded: Sequence[LoadedMedia] | ErnieError) -> GenerateRequest:
            if isinstance(loaded, ErnieError):
                raise loaded
            return preprocessor.finish(complete, loaded)

        def go_on() -> None:
            current_request.set(origin.request_id)
            try:
                complete = preprocessor.compile(prepared, waiter.signal)
                if complete.media:
                    load(complete)
                else:
                    answer(partial(finish, complete, ()))
            except Exception as error:
                answer(partial(_raise, error))

        self._room.enter(waiter)
        if prepared.wish is None:
            go_on()
        else:
            future = self._compiling.submit(go_on)
            future.add_done_callback(lambda future: answer(partial(_raise, STOPPING)) if future.cancelled() else None)
            waiter.signal.add(future.cancel)

    def _answer(
        self, sender: Any, origin: Origin, make: Callable[[], GenerateRequest | AbortRequest | None], waiting_key: str | None = None
    ) -> None:
        """Send the one response: what `make` returns or raises; nothing yet if it returns None.

        `waiting_key`: of a request that has waited; its refusal goes by way of the engine, which knows of it."""
        current_request.set(origin.request_id)
        refusal: ErnieError | None = None
        generate: GenerateRequest | None = None
        try:
            made = make()
            if made is None:
                return
            generate = origin.mark(made) if isinstance(made, GenerateRequest) else None
            response = self._pb.InferenceResponse(output_tensors=self._outputs(generate or made))
        except ErnieError as error:
            # Its traceback holds this frame, which holds it: such a ring, prompt and token ids within, waits for the garbage collector, and
            # a few megabytes of ids at once leave the process larger for good.
            refusal = error.with_traceback(None)
        except Exception:
            log.exception("A request could not be prepared.")
            refusal = EngineError("The server could not prepare this request. See the server's log.")
        if refusal is not None and waiting_key is None:
            response = error_response(self._pb, refusal)
        elif refusal is not None:
            response = self._pb.InferenceResponse(output_tensors=self._outputs(Refusal(waiting_key or "", refusal.to_wire())))
        self._watch.answered(origin, generate, refusal)
        final = self._pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL
        try:
            sender.send(response, flags=final)
        except Exception:  # no shared memory left for the patches, as a rule; without a response the client would wait for ever
            log.exception("A prepared request could not be handed on.")
            sender.send(error_response(self._pb, EngineError("The server could not hand this request on. Try again.")), flags=final)

    def _inputs(self, request: Any) -> RequestInputs:
        pb = self._pb
        parameters = read_parameters(request)
        stream = read_bool(pb, request, "stream")
        exclude = read_bool(pb, request, "exclude_input_in_output")
        return RequestInputs(
            text_input=read_text(pb, request, "text_input"),
            chat=read_text(pb, request, "chat"),
            image=read_texts(pb, request, "image"),
            sampling_parameters=read_text(pb, request, "sampling_parameters"),
            max_tokens=read_int(pb, request, "max_tokens"),
            stream=_flag(parameters, "stream") if stream is None else stream,
            exclude_input_in_output=_flag(parameters, "exclude_input_in_output") if exclude is None else exclude,
            parameters={name: value for name, value in parameters.items() if name not in _FLAGS},
            terms=read_terms(all_parameters(request), request.timeout(), time.monotonic()),
        )

    def _outputs(self, generate: GenerateRequest | AbortRequest | Pulse | Refusal) -> list[Any]:
        request = generate.to_json()
        if not isinstance(generate, GenerateRequest):
            return [
                text_tensor(self._pb, "request", self._seal.of_request(request, ()) + request),
                ids_tensor(self._pb, "prompt_token_ids", ()),
            ]
        signature = self._seal.of_request(request, generate.prompt_token_ids, media_json(generate.media))
        return [
            text_tensor(self._pb, "request", signature + request),
            ids_tensor(self._pb, "prompt_token_ids", generate.prompt_token_ids),
            *media_tensors(self._pb, generate.media),
        ]


def _raise(error: Exception) -> None:
    raise error


def _media_pool(config: EngineConfig, preprocessor: Preprocessor) -> MediaPool | None:
    """What loads images and videos; None for a model that takes none, which then needs none of the libraries for it either."""
    if preprocessor.media.config is None:
        return None
    missing = [name for name in _MEDIA_LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"This model takes images, and {missing[0]} is not installed: pip install 'ernie-triton[media]'.", param="model")
    from ..media.decode_process import DecodeProcesses
    from ..media.fetch import Fetcher, FetchPolicy
    from ..media.loader import MediaLoader
    from ..media.pool import MediaPool

    policy = FetchPolicy(tuple(config.allowed_media_domains or ()), config.allow_private_media, config.allowed_local_media_path)
    decoders = DecodeProcesses(find_python(), preprocessor.media.config, preprocessor.max_model_len)
    return MediaPool(MediaLoader(Fetcher(policy), decoders, _kept_bytes(config)))


def _kept_bytes(config: EngineConfig) -> int:
    """Of decoded files. Some by default: a chat sends its images with every turn, and to decode one of 1024 × 1024 takes 20 to 60 ms."""
    return int((0.5 if config.max_processor_cache_gib == -1 else config.max_processor_cache_gib) * 2**30)
