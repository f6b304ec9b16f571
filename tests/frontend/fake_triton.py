"""A gRPC server that answers like tritonserver's ensemble, from a script; only the calls that the front end makes."""

from __future__ import annotations

import asyncio
import json
import logging
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

Reply = Any
Script = Callable[["SeenRequest"], AsyncIterator[Reply]]


class SeenRequest:
    """A ModelInferRequest as plain values."""

    def __init__(self, message: Any, metadata: dict[str, str]) -> None:
        self.model = message.model_name
        self.id = message.id
        self.metadata = metadata
        self.wants_empty_final = message.parameters["triton_enable_empty_final_response"].bool_param
        self.parameters = {name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in message.parameters.items()}
        self.tensors = {
            tensor.name: raw[4:].decode() if tensor.datatype == "BYTES" else raw
            for tensor, raw in zip(message.inputs, message.raw_input_contents, strict=True)
        }
        self.shapes = {(tensor.name, tensor.datatype, tuple(tensor.shape)) for tensor in message.inputs}


def response(final: bool = False, **outputs: Any) -> Reply:
    """One reply with the ensemble's outputs; what is not given is empty, as postprocess sends it."""
    infer = service_pb2.ModelInferResponse(model_name="ernie", model_version="1")
    infer.parameters["triton_final_response"].bool_param = final
    infer.parameters["sequence_id"].int64_param = 0
    ids = outputs.pop("token_ids", ())
    fields: dict[str, Any] = {"text_output": "", "reasoning_output": "", "tool_calls": "", "finish_reason": "", "logprobs": "", "error": ""}
    fields["usage"] = {"prompt_tokens": 3, "completion_tokens": 1, "cached_tokens": 0}
    index = outputs.pop("index", 0)
    for name, value in (fields | outputs).items():
        data = (value if isinstance(value, str) else json.dumps(value)).encode()
        infer.outputs.add(name=name, datatype="BYTES", shape=[1])
        infer.raw_output_contents.append(struct.pack("<I", len(data)) + data)
    infer.outputs.add(name="token_ids", datatype="INT32", shape=[len(ids)])
    infer.raw_output_contents.append(struct.pack(f"<{len(ids)}i", *ids))
    infer.outputs.add(name="index", datatype="INT32", shape=[1])
    infer.raw_output_contents.append(struct.pack("<i", index))
    return service_pb2.ModelStreamInferResponse(infer_response=infer)


def empty_final() -> Reply:
    infer = service_pb2.ModelInferResponse(model_name="ernie", model_version="1")
    infer.parameters["triton_final_response"].bool_param = True
    return service_pb2.ModelStreamInferResponse(infer_response=infer)


def error_message(text: str) -> Reply:
    return service_pb2.ModelStreamInferResponse(error_message=text)


class FakeTriton(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Plays `script` for every request. A `(StatusCode, text)` in a script ends the call with that status."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.seen: list[SeenRequest] = []
        self.cancelled = asyncio.Event()
        self.num_finished = 0
        self.server_ready = self.model_ready = True

    async def ModelStreamInfer(self, requests: Any, context: Any) -> AsyncIterator[Reply]:
        try:
            async for message in requests:
                request = SeenRequest(message, dict(context.invocation_metadata()))
                self.seen.append(request)
                async for reply in self.script(request):
                    if isinstance(reply, tuple):
                        await context.abort(*reply)
                    yield reply
            self.num_finished += 1
        except (asyncio.CancelledError, GeneratorExit):  # the latter if the client leaves while grpc still sends what was yielded
            self.cancelled.set()
            raise

    async def ServerReady(self, _request: Any, _context: Any) -> Any:
        return service_pb2.ServerReadyResponse(ready=self.server_ready)

    async def ModelReady(self, request: Any, context: Any) -> Any:
        if request.name != "ernie":
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown model")
        return service_pb2.ModelReadyResponse(ready=self.model_ready)


@asynccontextmanager
async def serving(triton: FakeTriton, address: str = "127.0.0.1:0") -> AsyncIterator[str]:
    """HOST:PORT of `triton`."""
    server = grpc.aio.server(options=(("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(triton, server)
    port = server.add_insecure_port(address)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(grace=None)


def logged(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """What was said, but for grpc's poller, which may stumble over the loops of earlier tests in this process; a server has one."""
    return [record for record in caplog.records if "PollerCompletionQueue" not in record.getMessage()]
