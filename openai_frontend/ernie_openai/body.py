"""Takes a request's body as JSON; knows no field of it."""

from __future__ import annotations

from email.message import Message
from typing import Any

from fastapi import Request

from ernie_backend.errors import InvalidRequestError
from ernie_backend.strict_json import read_object

from .errors import UnsupportedMediaTypeError


async def read_json_object(request: Request) -> dict[str, Any]:
    """The body as a JSON object. Raises `InvalidRequestError` for anything else, and what the body's limits raise."""
    _check_headers(request)
    raw = await request.body()
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"The request body is not valid UTF-8 (byte {error.start}).") from None
    return read_object(text, "The request body")


def _check_headers(request: Request) -> None:
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaTypeError("Send the request body without Content-Encoding.")
    sent = request.headers.get("content-type")
    if sent is None and "origin" not in request.headers:  # `requests.post(url, data=json.dumps(…))` sends none
        return
    # A page of someone else's may make a browser send a body without a type, unasked; one that says JSON the browser asks about first.
    sent = sent or ""
    header = Message()
    header["content-type"] = sent
    charset = str(header.get_param("charset", "utf-8")).lower()
    if header.get_content_type() != "application/json" or charset not in ("utf-8", "utf8"):
        raise UnsupportedMediaTypeError(f"Content-Type must be application/json in UTF-8, got {sent[:80]!r}.")
