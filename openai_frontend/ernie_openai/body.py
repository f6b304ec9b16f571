"""Reads a request's body as strict JSON; knows no field of it."""

from __future__ import annotations

import json
import math
import re
from email.message import Message
from typing import Any

from fastapi import Request

from ernie_backend.errors import InvalidRequestError
from ernie_backend.json_depth import place_that_is_too_deep

from .errors import UnsupportedMediaTypeError

_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")


async def read_json_object(request: Request) -> dict[str, Any]:
    """The body as a JSON object. Raises `InvalidRequestError` for anything else, and what the body's limits raise."""
    _check_headers(request)
    raw = await request.body()
    try:
        given = json.loads(raw.decode("utf-8"), object_pairs_hook=_object, parse_constant=_constant, parse_float=_float)
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"The request body is not valid UTF-8 (byte {error.start}).") from None
    except json.JSONDecodeError as error:
        raise InvalidRequestError(
            f"The request body is not valid JSON: {error.msg.removesuffix(' at')} at character {error.pos}."
        ) from None
    except RecursionError:
        place = place_that_is_too_deep(raw.decode("utf-8"))
        raise InvalidRequestError(f"The request body is nested too deeply{f' in {place}' if place else ''}.", param=place) from None
    except ValueError:  # Python refuses to read integers of more than 4300 digits
        raise InvalidRequestError("The request body holds a number with too many digits.") from None
    if not isinstance(given, dict):
        raise InvalidRequestError("The request body must be a JSON object.")
    if _SURROGATE_ESCAPE.search(raw):
        _refuse_lone_surrogates(given)
    return given


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


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise InvalidRequestError(f"The field {name[:80]!r} stands twice in one JSON object.")
            seen.add(name)
    return made


def _constant(name: str) -> Any:
    raise InvalidRequestError(f"The request body holds {name}, which is not JSON. Numbers must be finite.")


def _float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise InvalidRequestError(f"The request body holds the number {text[:40]}, which is too large.")
    return number


def _refuse_lone_surrogates(given: dict[str, Any]) -> None:
    """Half of an escaped pair is no character, and could not be encoded on the way to the engine."""
    try:
        json.dumps(given, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise InvalidRequestError("The request body holds half of a \\u surrogate pair, which is not a character.") from None
