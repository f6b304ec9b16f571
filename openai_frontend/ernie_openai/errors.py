"""The one place where exceptions become HTTP statuses and OpenAI's error object; knows no route and no engine."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from ernie_backend.errors import EngineError, ErnieError, InvalidRequestError

RETRY_AFTER_SECONDS = 1
REQUEST_ID_HEADER = "x-request-id"
CLIENT_REQUEST_ID = "ernie.client_request_id"
"""In a request's ASGI scope: the proper id that the client gave it, or None."""
_INTERNAL = EngineError("The server failed to answer this request. Try again; if it happens again, see the server's log.")


class ClientDisconnectedError(Exception):
    """The client hung up; nobody reads the answer."""


class SlowReaderError(ErnieError):
    """The client has not read what was sent: told behind what it still reads."""

    type = "slow_reader_error"
    code = "slow_reader"
    http_status = 408


class UnsupportedMediaTypeError(InvalidRequestError):
    """The body is not what it should be, or is packed."""

    code = "unsupported_media_type"
    http_status = 415


class SlowBodyError(InvalidRequestError):
    """Not a deadline of the answer: the request itself never came."""

    code = "request_timeout"
    http_status = 408


class UriTooLongError(InvalidRequestError):
    code = "uri_too_long"
    http_status = 414


class HeadersTooLargeError(InvalidRequestError):
    code = "headers_too_large"
    http_status = 431


def error_object(error: ErnieError) -> dict[str, Any]:
    return {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}


def as_ernie_error(error: Exception) -> ErnieError:
    """`error` itself if it was written for users; else one that says nothing of our insides."""
    return error if isinstance(error, ErnieError) else _INTERNAL


def renamed(error: InvalidRequestError, prompt_field: str) -> InvalidRequestError:
    """The error in the words of the user's request, where it speaks of the ensemble's prompt tensors."""
    for tensor in ("text_input", "prompt_token_ids"):
        if error.param == tensor or (error.param or "").startswith(f"{tensor}["):
            param = prompt_field + (error.param or "")[len(tensor) :]
            return type(error)(error.message.replace(tensor, prompt_field), param=param, code=error.code)
    return error


def in_metadata(error: InvalidRequestError, fields: Collection[str]) -> InvalidRequestError:
    """The error where the user can find it, if it speaks of one of `fields`, which were given in metadata."""
    name = re.split(r"[.\[]", error.param or "", maxsplit=1)[0]
    if name not in fields:
        return error
    message = re.sub(rf"(?<![\w.]){re.escape(name)}\b", f"metadata.{name}", error.message, count=1)
    return type(error)(message, param=f"metadata.{error.param}", code=error.code)


@contextmanager
def naming_metadata(fields: Collection[str]) -> Iterator[None]:
    """Around what raises such errors."""
    try:
        yield
    except InvalidRequestError as error:
        raise in_metadata(error, fields) from None


def dumps(value: Any) -> bytes:
    """JSON as it goes over the wire: UTF-8, no spaces, no NaN."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def error_response(error: ErnieError, status: int | None = None) -> Response:
    """The error as an HTTP response, with the headers that its status calls for."""
    status = status or error.http_status
    headers = {}
    if status in (429, 503):
        headers["retry-after"] = str(error.retry_after_seconds or RETRY_AFTER_SECONDS)
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, SlowBodyError):
        headers["connection"] = "close"  # else the HTTP server would wait for the rest
    return Response(dumps(error_object(error)), status_code=status, headers=headers, media_type="application/json")


async def _on_ernie_error(_: Request, error: Exception) -> Response:
    return error_response(as_ernie_error(error))


async def _on_other_error(request: Request, error: Exception) -> Response:
    """Answered outside the middleware, which therefore cannot add its headers."""
    response = error_response(as_ernie_error(error))
    response.headers["x-content-type-options"] = "nosniff"
    request_id = request.scope.get(CLIENT_REQUEST_ID) or getattr(request.scope.get("ernie.request_record"), "id", None)
    if request_id is not None:
        response.headers[REQUEST_ID_HEADER] = request_id
    return response


async def _on_http_exception(request: Request, error: Exception) -> Response:
    """What the router itself refuses: no such path, wrong method."""
    assert isinstance(error, HTTPException)
    status = error.status_code
    known = {404: ("There is no {}.", "not_found"), 405: ("{} is not allowed here.", "method_not_allowed")}
    text, code = known.get(status, ("{} cannot be answered.", "invalid_value"))
    response = error_response(InvalidRequestError(text.format(f"{request.method} {request.url.path}"), code=code), status)
    if status == 405:  # the router's own header names the methods of one route, where a path may have several
        methods = request.app.openapi()["paths"].get(request.url.path, {})
        response.headers["allow"] = ", ".join(map(str.upper, methods)) or (error.headers or {}).get("allow", "")
    return response


async def _on_disconnect(_request: Request, _error: Exception) -> Response:
    return Response(status_code=499)  # nginx's number for "client closed request"; nobody is left to read it


def install_error_handlers(app: FastAPI) -> None:
    app.add_exception_handler(ErnieError, _on_ernie_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(ClientDisconnectedError, _on_disconnect)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)  # before the body was complete
    app.add_exception_handler(Exception, _on_other_error)
