"""Every error a user can meet, with its status on each face; knows no HTTP library and no Triton.

::

    ErnieError                         what the user should change, in one sentence
    ├── InvalidRequestError            400  a field is wrong            (param names it)
    │   └── ContextLengthError         400  prompt + max_tokens too long
    ├── AuthenticationError            401  missing or wrong API key
    ├── PermissionDeniedError          403  a key without the scope
    ├── ModelNotFoundError             404  unknown model name
    ├── PayloadTooLargeError           413  request body beyond the limit
    ├── RequestTimeoutError            408  a time limit is over
    ├── RequestAbortedError            499  ended by `POST /v1/abort_requests`
    ├── OverloadedError                429  queue full
    ├── UnavailableError               503  starting, draining or stopped
    ├── EngineError                    500  our fault; the text carries no internals
    ├── ConfigError                    a flag or a config field is wrong (start-up)
    └── CheckpointError                a model folder is wrong (start-up)

An error crosses Triton as one line of text. `to_wire` appends the machine-readable part in a fixed form that a person can read too, and
`from_wire` finds it again: ``max_tokens must be ≥ 1, got -3. (type: invalid_request_error; param: max_tokens; code: invalid_value)``.
An error that passes with time may say when: ``…; code: overloaded; retry after: 12 s)``.
"""

from __future__ import annotations

import re
from typing import Any

MAX_PARAM_CHARACTERS = 100
_UNFIT_FOR_PARAM = re.compile(r"[;()\s\x00]")
"""A user's key may be a param: these characters would break the wire form."""


def json_kind(value: Any) -> str:
    """What a JSON value is, for messages: "a list"."""
    return {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}.get(type(value), "a number")


class ErnieError(Exception):
    """Base of all errors shown to a user. `message` says what is wrong and what to change."""

    type = "server_error"
    code: str | None = "internal_error"
    http_status = 500

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None, retry_after_seconds: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_seconds = retry_after_seconds
        """When the same request may succeed; None: nobody knows."""
        if code is not None:
            self.code = code

    def to_wire(self) -> str:
        """The one line that crosses Triton: message, then type, param and code in brackets."""
        parts = [f"type: {self.type}"]
        if self.param:
            parts.append(f"param: {_UNFIT_FOR_PARAM.sub('_', self.param)[:MAX_PARAM_CHARACTERS]}")
        if self.code:
            parts.append(f"code: {self.code}")
        if self.retry_after_seconds is not None:
            parts.append(f"retry after: {self.retry_after_seconds} s")
        message = self.message.replace("\0", "\\x00")  # a user's words may be repeated; for Triton, a text ends with its first NUL
        return f"{message} ({'; '.join(parts)})"


class InvalidRequestError(ErnieError):
    type = "invalid_request_error"
    code = "invalid_value"
    http_status = 400


class ContextLengthError(InvalidRequestError):
    code = "context_length_exceeded"


class AuthenticationError(ErnieError):
    type = "authentication_error"
    code = "invalid_api_key"
    http_status = 401


class PermissionDeniedError(ErnieError):
    type = "permission_error"
    code = "insufficient_scope"
    http_status = 403


class ModelNotFoundError(ErnieError):
    type = "invalid_request_error"
    code = "model_not_found"
    http_status = 404


class PayloadTooLargeError(ErnieError):
    type = "invalid_request_error"
    code = "payload_too_large"
    http_status = 413


class RequestTimeoutError(ErnieError):
    type = "timeout_error"
    code = "timeout"
    http_status = 408


class RequestAbortedError(ErnieError):
    """The number is nginx's "client closed request": no standard one fits, and clients do not repeat such a request by themselves."""

    type = "aborted_error"
    code = "request_aborted"
    http_status = 499


class OverloadedError(ErnieError):
    type = "overloaded_error"
    code = "overloaded"
    http_status = 429


class UnavailableError(ErnieError):
    type = "server_error"
    code = "unavailable"
    http_status = 503


class EngineError(ErnieError):
    """Our fault. The message never carries a path, an address or the text of an internal exception."""


class ConfigError(ErnieError):
    """A start-up setting is wrong; `param` names the flag or field."""

    type = "config_error"
    code = "invalid_config"


class CheckpointError(ErnieError):
    """A model folder cannot be loaded; the message names file, tensor, expected and found."""

    type = "checkpoint_error"
    code = "invalid_checkpoint"


_BY_CODE: dict[str, type[ErnieError]] = {
    str(cls.code): cls
    for cls in (
        InvalidRequestError,
        ContextLengthError,
        AuthenticationError,
        ModelNotFoundError,
        PayloadTooLargeError,
        RequestTimeoutError,
        RequestAbortedError,
        OverloadedError,
        UnavailableError,
        EngineError,
    )
}
_WIRE = re.compile(
    r"^(?P<message>.*) \(type: (?P<type>\w+)(?:; param: (?P<param>[^;]+))?(?:; code: (?P<code>\w+))?"
    r"(?:; retry after: (?P<retry>\d+) s)?\)$",
    re.DOTALL,
)


def from_wire(text: str) -> ErnieError:
    """The error that `to_wire` wrote; text in any other form becomes an `EngineError` that does not repeat it."""
    match = _WIRE.match(text)
    if match is None:
        return EngineError("The server could not answer this request. Try again; if it happens again, see the server's log.")
    code = match["code"]
    cls = _BY_CODE.get(code or "")
    if cls is None:
        cls = InvalidRequestError if match["type"] == InvalidRequestError.type else EngineError
    retry_after_seconds = None if match["retry"] is None else int(match["retry"])
    return cls(match["message"], param=match["param"], code=code, retry_after_seconds=retry_after_seconds)
