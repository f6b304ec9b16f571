"""The engine client that speaks to Triton: one gRPC stream per prompt, its tensors in and out; knows neither OpenAI nor HTTP routes."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import struct
import urllib.request
from collections.abc import AsyncGenerator, Callable
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from ernie_backend.errors import EngineError, ErnieError, RequestTimeoutError, UnavailableError, from_wire
from ernie_backend.protocol import FinishReason, Usage

from .client import AnswerEvent, EnsembleRequest

log = logging.getLogger(__name__)

ENSEMBLE = "ernie"
_READY_TIMEOUT_SECONDS = 2.0
_METRICS_TIMEOUT_SECONDS = 5.0
_END_OF_STREAM_TIMEOUT_SECONDS = 1.0
_ABORT_TIMEOUT_SECONDS = 10.0
_TIMEOUT_MARGIN_SECONDS = 2.0
"""The engine keeps to a request's time limit by itself. So much later we give up on what never came that far: images, a busy preprocess."""

_CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", -1),  # the body limit of the HTTP face holds; Triton's own limit is 2 GiB
    ("grpc.max_receive_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),  # else all channels share one connection
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),  # defaults 1 and 120 s: too long for a Triton on this machine that has been restarted
    ("grpc.max_reconnect_backoff_ms", 250),
)
_CONNECT_SECONDS = 1.0
"""For a connection that is being made anew: some tries. gRPC itself would refuse at once what comes between two of them."""

# tritonserver answers INVALID_ARGUMENT for what a model refuses. These codes are of its own making.
_UNAVAILABLE_CODES = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED)
_BROKEN_UNDER_A_CALL = "Internal error from Core"
"""What grpc itself says when a call begins just as its connection ends."""
_TRITON_PREFIX = re.compile(r"^(in ensemble '[^']*', )*(\[request id: \S*\] )?")
# Said inside the stream, with status OK: while the model is not loaded, and when the process of one of its steps has died.
_UNAVAILABLE_TEXT = re.compile(r"Request for unknown model|.*Stub process '\S*' is not healthy", re.DOTALL)


class _NotThereError(UnavailableError):
    """Triton does not answer, or not for the ensemble."""

    def __init__(self, details: str) -> None:
        super().__init__("The model server is not available. Try again in a moment.")
        self.details = details


class TritonClient:
    """Made inside a running event loop. `close` when done."""

    def __init__(self, grpc_address: str, metrics_url: str, num_channels: int = 4, outage: Callable[[], str | None] = lambda: None) -> None:
        """`outage`: why no request can be answered now, as whoever supervises the server knows; None: nothing is known."""
        self._metrics_url = metrics_url
        self._outage = outage
        self._channels = [grpc.aio.insecure_channel(grpc_address, options=_CHANNEL_OPTIONS) for _ in range(num_channels)]
        self._stubs = [service_pb2_grpc.GRPCInferenceServiceStub(channel) for channel in self._channels]
        self._streams = [0] * num_channels  # open streams of each channel
        self._connecting: dict[int, asyncio.Future[None]] = {}

    async def generate(self, request: EnsembleRequest) -> AsyncGenerator[AnswerEvent, None]:
        self._refuse_in_outage()
        channel = self._streams.index(min(self._streams))
        self._streams[channel] += 1
        unfinished = request.num_choices
        call = None
        try:
            await self._await_connection(channel)
            # Without metadata `triton_grpc_error`: it gives real status codes, but tritonserver 2.51 dies of some hundred refusals with it
            call = self._stubs[channel].ModelStreamInfer(iter([_infer_request(request)]), timeout=_patience(request))
            while (reply := await _read(call)) is not grpc.aio.EOF:
                try:
                    event = _event(reply)
                except ErnieError as error:
                    await _read_to_end(call)
                    raise self._explained(error) from None
                if event is None:
                    continue
                unfinished -= event.finish_reason is not None
                yield event
                if not unfinished:
                    await _read_to_end(call)
                    return
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise RequestTimeoutError("The request was not answered within its time limit. Give it more time.") from None
            raise self._explained(_error_of_status(error)) from None
        finally:
            if call is not None:
                call.cancel()  # without effect on a call that has ended
            self._streams[channel] -= 1
        log.error("Triton ended a stream with %d of %d choices unfinished.", unfinished, request.num_choices)
        raise EngineError("The answer ended before it was complete. Try again; if it happens again, see the server's log.")

    async def abort(self, tenant: str | None, answer_ids: tuple[str, ...] | None) -> tuple[str, ...]:
        """The ids that named answers under way. Any worker's answers are found: the engine is one process."""
        message = service_pb2.ModelInferRequest(model_name=ENSEMBLE)
        message.parameters["triton_enable_empty_final_response"].bool_param = True
        message.parameters["ernie_abort"].string_param = json.dumps({"ids": answer_ids, "everyone": tenant is None})
        message.parameters["ernie_tenant"].string_param = tenant or ""
        _add_input(message, "stream", "BOOL", b"\x00")
        aborted: tuple[str, ...] | None = None
        self._refuse_in_outage()
        await self._await_connection(0)
        try:
            async for reply in self._stubs[0].ModelStreamInfer(iter([message]), timeout=_ABORT_TIMEOUT_SECONDS):
                event = _event(reply)
                if event is not None:
                    aborted = tuple(json.loads(event.text))
        except _NotThereError as error:
            raise self._explained(error) from None
        except grpc.aio.AioRpcError as error:
            raise self._explained(_error_of_status(error)) from None
        if aborted is None:
            raise EngineError("The server did not say what it aborted. Try again.")
        return aborted

    def _refuse_in_outage(self) -> None:
        outage = self._outage()
        if outage is not None:
            raise UnavailableError(outage)

    def _explained(self, error: ErnieError) -> ErnieError:
        """That Triton is not there, in the words of an outage, which is in the log already; else it is told there now."""
        if not isinstance(error, _NotThereError):
            return error
        self._refuse_in_outage()
        log.error("Triton is not available: %s", error.details)
        return UnavailableError(error.message)

    async def _await_connection(self, number: int) -> None:
        """Of the channel, for a while; whether there is one then is seen when it is used."""
        channel = self._channels[number]
        if channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY:
            return
        if number not in self._connecting or self._connecting[number].done():
            self._connecting[number] = asyncio.ensure_future(channel.channel_ready())
        await asyncio.wait({self._connecting[number]}, timeout=_CONNECT_SECONDS)

    async def is_ready(self) -> bool:
        """Whether Triton and the ensemble take requests now, on every channel: after a restart of Triton each connects anew."""
        server, model = service_pb2.ServerReadyRequest(), service_pb2.ModelReadyRequest(name=ENSEMBLE)
        asked = [stub.ModelReady(model, timeout=_READY_TIMEOUT_SECONDS) for stub in self._stubs]
        try:
            answers = await asyncio.gather(self._stubs[0].ServerReady(server, timeout=_READY_TIMEOUT_SECONDS), *asked)
        except grpc.aio.AioRpcError:
            return False
        return all(answer.ready for answer in answers)

    async def metrics(self) -> bytes:
        return await asyncio.to_thread(self._read_metrics)

    def _read_metrics(self) -> bytes:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(self._metrics_url, timeout=_METRICS_TIMEOUT_SECONDS) as response:
                return response.read()
        except OSError:
            raise UnavailableError("The model server's metrics cannot be read. Try again.") from None

    async def close(self) -> None:
        for connecting in self._connecting.values():
            connecting.cancel()
        await asyncio.gather(*self._connecting.values(), return_exceptions=True)
        await asyncio.gather(*(channel.close() for channel in self._channels))


async def _read(call: Any) -> Any:
    """The next reply, or `grpc.aio.EOF`. When the caller is cancelled, so is the call, and its read then ends by itself.

    A read that is cancelled itself leaves 2 kB behind in grpc 1.85, and may give the cancellation out as an error of the server.
    """
    reading = asyncio.ensure_future(call.read())
    try:
        return await asyncio.shield(reading)
    except asyncio.CancelledError:
        call.cancel()
        await asyncio.wait({reading}, timeout=_END_OF_STREAM_TIMEOUT_SECONDS)
        if reading.done() and not reading.cancelled():
            reading.exception()  # has been looked at
        raise


def _patience(request: EnsembleRequest) -> float | None:
    """Seconds after which the answer is given up; None: never."""
    limit = request.terms.timeout_microseconds
    return limit / 1e6 + _TIMEOUT_MARGIN_SECONDS if limit else None


async def _read_to_end(call: Any) -> None:
    """Lets Triton end the stream itself, which it does at once: cancelling would count as a cancelled request there."""

    async def read() -> None:
        while await call.read() is not grpc.aio.EOF:
            pass

    try:
        await asyncio.wait_for(read(), _END_OF_STREAM_TIMEOUT_SECONDS)
    except (TimeoutError, grpc.aio.AioRpcError):
        log.warning("Triton did not end a finished stream.")


# Tensors in ----------------------------------------------------------------------------------------------------------------------


def _infer_request(request: EnsembleRequest) -> Any:
    """ModelInferRequest; always streamed, so that stop strings and hang-ups end the work early."""
    message = service_pb2.ModelInferRequest(model_name=ENSEMBLE, id=request.request_id)
    message.parameters["triton_enable_empty_final_response"].bool_param = True
    if request.traceparent:
        message.parameters["traceparent"].string_param = request.traceparent
    message.parameters["ernie_answer_id"].string_param = request.answer_id
    message.parameters["ernie_tenant"].string_param = request.terms.tenant
    message.parameters["ernie_priority"].int64_param = request.level
    if request.terms.timeout_microseconds:
        message.parameters["timeout"].int64_param = request.terms.timeout_microseconds
    _add_input(message, "sampling_parameters", "BYTES", _bytes_element(request.sampling_parameters))
    _add_input(message, "stream", "BOOL", b"\x01")
    if request.text_input is not None:
        _add_input(message, "text_input", "BYTES", _bytes_element(request.text_input))
    if request.chat is not None:
        _add_input(message, "chat", "BYTES", _bytes_element(request.chat))
    return message


def _add_input(message: Any, name: str, datatype: str, raw: bytes) -> None:
    message.inputs.add(name=name, datatype=datatype, shape=[1])
    message.raw_input_contents.append(raw)


def _bytes_element(text: str) -> bytes:
    """One element of a BYTES tensor: its length as little-endian uint32, then itself."""
    data = text.encode()
    return struct.pack("<I", len(data)) + data


# Tensors out ---------------------------------------------------------------------------------------------------------------------


def _event(reply: Any) -> AnswerEvent | None:
    """The event of a ModelStreamInferResponse, None if it says nothing. Raises the `ErnieError` that it carries."""
    if reply.error_message:
        raise _error_of_text(reply.error_message)
    response = reply.infer_response
    outputs = dict(zip((output.name for output in response.outputs), response.raw_output_contents, strict=False))
    finish_reason = _text(outputs, "finish_reason")
    if finish_reason == FinishReason.ERROR:
        raise _error_of_text(_text(outputs, "error"))
    if finish_reason == FinishReason.ABORT:
        told = _text(outputs, "error")
        raise _error_of_text(told) if told else UnavailableError("The server stopped this answer before it was complete. Try again.")
    text, reasoning = _text(outputs, "text_output"), _text(outputs, "reasoning_output")
    raw_ids = outputs.get("token_ids", b"")
    token_ids = struct.unpack(f"<{len(raw_ids) // 4}i", raw_ids)
    if not (text or reasoning or token_ids or finish_reason or _text(outputs, "tool_calls")):
        return None
    usage = _json(outputs, "usage", {})
    prompt_token_ids = usage.pop("prompt_token_ids", None)
    timings = usage.pop("timings", None)
    return AnswerEvent(
        index=struct.unpack("<i", outputs["index"])[0],
        text=text,
        reasoning=reasoning,
        tool_calls=tuple(_json(outputs, "tool_calls", ())),
        token_ids=token_ids,
        logprobs=tuple(_json(outputs, "logprobs", ())),
        finish_reason=finish_reason or None,
        usage=Usage(**usage),
        prompt_token_ids=None if prompt_token_ids is None else tuple(prompt_token_ids),
        timings=timings,
    )


def _text(outputs: dict[str, bytes], name: str) -> str:
    return outputs[name][4:].decode() if name in outputs else ""


def _json(outputs: dict[str, bytes], name: str, default: Any) -> Any:
    text = _text(outputs, name)
    return json.loads(text) if text else default


# Errors --------------------------------------------------------------------------------------------------------------------------


def _error_of_text(text: str) -> ErnieError:
    """What a model said, in wire form; Triton puts the ensemble's name before it."""
    if _UNAVAILABLE_TEXT.match(text):
        return _NotThereError(text)
    error = from_wire(_TRITON_PREFIX.sub("", text))
    if isinstance(error, EngineError):
        log.error("Triton answered: %s", text)
    return error


def _error_of_status(error: grpc.aio.AioRpcError) -> ErnieError:
    code, details = error.code(), error.details() or ""
    if code in _UNAVAILABLE_CODES or details == _BROKEN_UNDER_A_CALL:
        return _NotThereError(f"{code.name} {details}")
    return _error_of_text(details)
