"""What Triton's `triton_python_backend_utils` gives a model, as far as the adapter uses it: tensors, requests, responses, metrics."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np

_DTYPES = (np.dtype(object), np.dtype(np.int32), np.dtype(np.uint8), np.dtype(bool))


class Tensor:
    """Checks what the real one checks only by crashing: BYTES elements are bytes, and the dtype is one that Triton knows."""

    def __init__(self, name: str, array: np.ndarray) -> None:
        assert isinstance(array, np.ndarray) and array.dtype in _DTYPES, (name, array)
        assert array.dtype != np.dtype(object) or all(isinstance(item, bytes) for item in array.ravel()), name
        self._name, self._array = name, array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> np.ndarray:
        return self._array


class TritonError(Exception):
    UNKNOWN, INTERNAL, NOT_FOUND, INVALID_ARG, UNAVAILABLE = range(5)

    def __init__(self, message: str, code: int = INTERNAL) -> None:
        super().__init__(message)
        self._message, self._code = message, code

    def message(self) -> str:
        return self._message

    def code(self) -> int:
        return self._code


class TritonModelException(Exception):
    """Raised by `initialize` when a model cannot load."""


class InferenceResponse:
    def __init__(self, output_tensors: list[Tensor] | None = None, error: TritonError | None = None) -> None:
        self._tensors, self._error = output_tensors or [], error

    def output_tensors(self) -> list[Tensor]:
        return self._tensors

    def error(self) -> TritonError | None:
        return self._error

    def value(self, name: str) -> Any:
        """Of a BYTES[1] output its text, of another one its values as a list."""
        (tensor,) = [tensor for tensor in self._tensors if tensor.name() == name]
        array = tensor.as_numpy()
        return array[0].decode("utf-8") if array.dtype == np.dtype(object) else array.tolist()


@dataclass
class ResponseSender:
    """As strict as the real one: nothing after the final flag, and a response or the flag in every call."""

    responses: list[InferenceResponse] = field(default_factory=list)
    is_closed: bool = False
    broken: bool = False
    """The next response that is no error raises, as when the shared memory is full."""

    def send(self, response: InferenceResponse | None = None, flags: int = 0) -> None:
        assert not self.is_closed, "a response after the final flag"
        assert response is not None or flags
        if self.broken and response is not None and response.error() is None:
            raise RuntimeError("no shared memory")
        if response is not None:
            self.responses.append(response)
        self.is_closed = bool(flags)


@dataclass
class InferenceRequest:
    tensors: list[Tensor]
    cancelled: bool = False
    sender: ResponseSender = field(default_factory=ResponseSender)

    request_parameters: dict[str, Any] = field(default_factory=dict)
    id: str = "r-1"

    def request_id(self) -> str:
        return self.id

    def parameters(self) -> str:
        return json.dumps(self.request_parameters)

    def get_response_sender(self) -> ResponseSender:
        return self.sender

    def inputs(self) -> list[Tensor]:
        return self.tensors

    def is_cancelled(self) -> bool:
        return self.cancelled


def get_input_tensor_by_name(request: InferenceRequest, name: str) -> Tensor | None:
    return next((tensor for tensor in request.inputs() if tensor.name() == name), None)


@dataclass
class Metric:
    labels: dict[str, str]
    values: list[float] = field(default_factory=list)
    """Every value that was set, in order."""

    def set(self, value: float) -> None:
        self.values.append(value)

    def increment(self, value: float) -> None:
        self.values.append((self.values[-1] if self.values else 0) + value)


class MetricFamily:
    COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"
    created: dict[str, Metric]
    """By name; each `FakePbUtils` has its own."""

    def __init__(self, name: str, description: str, kind: str) -> None:
        assert description and kind in (self.COUNTER, self.GAUGE, self.HISTOGRAM)
        self._name = name

    def Metric(self, labels: dict[str, str]) -> Metric:
        metric = Metric(labels)
        self.created[self._name + "".join(labels.values())] = metric
        return metric


class FakePbUtils:
    """One per test: stands in for the module."""

    Tensor = Tensor
    TritonError = TritonError
    TritonModelException = TritonModelException
    InferenceResponse = InferenceResponse
    TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1
    get_input_tensor_by_name = staticmethod(get_input_tensor_by_name)

    def __init__(self) -> None:
        self.metrics: dict[str, Metric] = {}
        self.MetricFamily = type("MetricFamily", (MetricFamily,), {"created": self.metrics})


def request(*, cancelled: bool = False, parameters: dict[str, Any] | None = None, **inputs: Any) -> InferenceRequest:
    """A request from plain values: text and bytes as BYTES[1], lists of them as BYTES, of ids as INT32, booleans as BOOL[1]."""
    tensors = []
    for name, value in inputs.items():
        if isinstance(value, (str, bytes)):
            array = np.array([value.encode() if isinstance(value, str) else value], dtype=np.object_)
        elif isinstance(value, np.ndarray):
            array = value
        elif isinstance(value, list) and value and isinstance(value[0], (str, bytes)):
            array = np.array([item.encode() if isinstance(item, str) else item for item in value], dtype=np.object_)
        elif isinstance(value, bool):
            array = np.array([value], dtype=bool)
        else:
            array = np.array(value if isinstance(value, (list, tuple)) else [value], dtype=np.int32)
        tensors.append(Tensor(name, array))
    return InferenceRequest(tensors, cancelled, request_parameters=parameters or {})
