"""Values to and from pb_utils tensors, errors to pb_utils errors; knows no field by name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import ErnieError, InvalidRequestError

_TRITON_PREFIXES = ("triton_", "sequence_")
_TRITON_PARAMETERS = frozenset(("priority", "timeout", "headers", "binary_data_output"))
_TRACE_PARAMETERS = ("traceparent", "tracestate")
_TRITON_CODES = {400: "INVALID_ARG", 401: "INVALID_ARG", 404: "NOT_FOUND", 413: "INVALID_ARG", 429: "UNAVAILABLE", 503: "UNAVAILABLE"}


def read_text(pb_utils: Any, request: Any, name: str) -> str | None:
    """A BYTES[1] input as text; None if absent. `InvalidRequestError` unless it is UTF-8."""
    data = read_bytes(pb_utils, request, name)
    if data is None:
        return None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"{name} is not valid UTF-8: {error.reason} at byte {error.start}.", param=name) from None


def read_bytes(pb_utils: Any, request: Any, name: str) -> bytes | None:
    """A BYTES[1] input; None if absent."""
    value = _read_one(pb_utils, request, name)
    if value is None:
        return None
    return value if isinstance(value, bytes) else str(value).encode("utf-8")


def read_texts(pb_utils: Any, request: Any, name: str) -> tuple[str, ...]:
    """A BYTES[-1] input as ASCII texts; empty if absent. `InvalidRequestError` for other bytes, which base64 never has."""
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    values = () if tensor is None else tensor.as_numpy().ravel().tolist()
    try:
        return tuple(value.decode("ascii") if isinstance(value, bytes) else str(value) for value in values)
    except UnicodeDecodeError:
        raise InvalidRequestError(f"{name} must hold base64 text, not bytes.", param=name) from None


def read_int(pb_utils: Any, request: Any, name: str) -> int | None:
    """An INT32[1] input; None if absent."""
    value = _read_one(pb_utils, request, name)
    return None if value is None else int(value)


def read_bool(pb_utils: Any, request: Any, name: str) -> bool | None:
    """A BOOL[1] input; None if absent."""
    value = _read_one(pb_utils, request, name)
    return None if value is None else bool(value)


def read_parameters(request: Any) -> dict[str, Any]:
    """The request's parameters without those that are Triton's own."""
    given = json.loads(request.parameters() or "{}")
    reserved = _TRITON_PARAMETERS.union(_TRACE_PARAMETERS)
    return {name: value for name, value in given.items() if name not in reserved and not name.startswith(_TRITON_PREFIXES)}


def read_trace_context(request: Any) -> dict[str, str]:
    """The W3C headers of the request's trace, which the front end or a client gave as parameters."""
    given = json.loads(request.parameters() or "{}")
    return {name: given[name] for name in _TRACE_PARAMETERS if isinstance(given.get(name), str)}


def read_ids(pb_utils: Any, request: Any, name: str) -> tuple[int, ...]:
    """An INT32[-1] input; empty if absent."""
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return () if tensor is None else tuple(tensor.as_numpy().ravel().tolist())


def text_tensor(pb_utils: Any, name: str, text: str) -> Any:
    """A BYTES[1] output."""
    return pb_utils.Tensor(name, np.array([text.encode("utf-8")], dtype=np.object_))


def ids_tensor(pb_utils: Any, name: str, ids: Sequence[int]) -> Any:
    """An INT32[len(ids)] output."""
    return pb_utils.Tensor(name, np.asarray(ids, dtype=np.int32))


def error_response(pb_utils: Any, error: ErnieError) -> Any:
    """A response that refuses the request: the error's wire form under Triton's nearest code."""
    code = getattr(pb_utils.TritonError, _TRITON_CODES.get(error.http_status, "INTERNAL"))
    return pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(error.to_wire(), code))


def _read_one(pb_utils: Any, request: Any, name: str) -> Any:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    if tensor is None:
        return None
    values = tensor.as_numpy().ravel()
    if values.size != 1:
        raise InvalidRequestError(f"{name} must hold exactly one element, got {values.size}.", param=name)
    return values[0]
