"""A tritonclient user: one gRPC stream per request."""

from __future__ import annotations

import json
import queue
from typing import Any

import numpy as np
import tritonclient.grpc as grpc_client

OUTPUTS = ("text_output", "reasoning_output", "tool_calls", "finish_reason", "token_ids", "index", "usage", "logprobs", "error")


class Stream:
    """One request through the ensemble; iterate for its responses, `cancel()` to hang up."""

    def __init__(
        self,
        address: str,
        *,
        stream: bool = True,
        request_id: str = "",
        outputs: tuple[str, ...] = (),
        parameters: dict[str, Any] | None = None,
        **inputs: Any,
    ) -> None:
        """`outputs`: those to ask for by name; empty: whatever comes."""
        self.client = grpc_client.InferenceServerClient(address)
        self.responses: queue.Queue[Any] = queue.Queue()
        self.client.start_stream(lambda result, error: self.responses.put(error if error is not None else result))
        tensors = [_tensor(name, value) for name, value in inputs.items()]
        tensors.append(_tensor("stream", stream))
        wanted = [grpc_client.InferRequestedOutput(name) for name in outputs] or None
        more: dict[str, Any] = {"timeout": parameters.pop("timeout")} if parameters and "timeout" in parameters else {}  # its own argument
        more |= {"outputs": wanted, "parameters": parameters, "enable_empty_final_response": True}
        self.client.async_stream_infer("ernie", tensors, request_id=request_id, **more)

    def next(self, seconds: float = 60.0) -> tuple[dict[str, Any], bool]:
        """(outputs, whether it was the last); raises the server's error."""
        result = self.responses.get(timeout=seconds)
        if isinstance(result, Exception):
            raise result
        response = result.get_response()
        final = response.parameters["triton_final_response"].bool_param
        arrays = {name: result.as_numpy(name) for name in OUTPUTS}
        values = {name: array for name, array in arrays.items() if array is not None}
        return {name: array.tolist() if name == "token_ids" else _scalar(array) for name, array in values.items()}, final

    def answer(self) -> dict[int, dict[str, Any]]:
        """The whole answer by choice; one data response at least, and nothing after the last."""
        choices: dict[int, dict[str, Any]] = {}
        final = False
        while not final:
            outputs, final = self.next()
            assert outputs, "the last response carries data"
            choice = choices.setdefault(
                outputs["index"], {"text": "", "reasoning": "", "tool_calls": [], "ids": [], "finish": "", "responses": 0}
            )
            assert not choice["finish"], "nothing comes after a choice's end"
            choice["text"] += outputs["text_output"]
            choice["reasoning"] += outputs.get("reasoning_output", "")
            choice["tool_calls"] += json.loads(outputs.get("tool_calls") or "[]")
            choice["ids"] += outputs["token_ids"]
            choice["finish"] = outputs["finish_reason"]
            choice["usage"] = json.loads(outputs["usage"])
            choice["responses"] += 1
        self.client.stop_stream()
        return choices

    def cancel(self) -> None:
        self.client.stop_stream(cancel_requests=True)


def _tensor(name: str, value: Any) -> grpc_client.InferInput:
    if isinstance(value, bool):
        array, kind = np.array([value]), "BOOL"
    elif isinstance(value, int):
        array, kind = np.array([value], np.int32), "INT32"
    else:
        data = value if isinstance(value, bytes) else (value if isinstance(value, str) else json.dumps(value)).encode()
        array, kind = np.array([data], np.object_), "BYTES"
    tensor = grpc_client.InferInput(name, list(array.shape), kind)
    tensor.set_data_from_numpy(array)
    return tensor


def _scalar(array: np.ndarray) -> Any:
    value = array.ravel()[0]
    return value.decode() if isinstance(value, bytes) else value.item()
