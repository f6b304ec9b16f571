"""Reads the JSON objects that users send; knows none of their fields."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from ..errors import InvalidRequestError

_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


def read_json_object(text: str, name: str) -> dict[str, Any]:
    """The object in `text`, whose strings are all valid Unicode. `InvalidRequestError` naming the input `name`."""
    try:
        given = json.loads(text, parse_constant=lambda constant: _refuse_constant(constant, name))
    except RecursionError:
        raise InvalidRequestError(f"{name} is nested too deeply.", param=name) from None
    except ValueError as error:
        raise InvalidRequestError(f"{name} is not valid JSON: {error}.", param=name) from None
    if not isinstance(given, dict):
        raise InvalidRequestError(f"{name} must be a JSON object, got {kind_of(given)}.", param=name)
    if _SURROGATE_ESCAPE.search(text):  # only such an escape can smuggle half a character into a string
        place = _place_of_half_character(given, "")
        if place is not None:
            raise InvalidRequestError(
                f"{place or name} is not valid Unicode: it holds half of a surrogate pair, such as \\ud83d without what must follow.",
                param=place or name,
            )
    return given


def kind_of(value: Any) -> str:
    """What a JSON value is, for messages: "a list"."""
    return {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}.get(type(value), "a number")


def _refuse_constant(constant: str, name: str) -> NoReturn:
    raise InvalidRequestError(f"{name} holds {constant}, which JSON does not know: give a finite number.", param=name)


def _place_of_half_character(value: Any, place: str) -> str | None:
    """`messages[0].content` of the first string with a lone surrogate; None if there is none."""
    if isinstance(value, str):
        return place if any("\ud800" <= character <= "\udfff" for character in value) else None
    children: list[tuple[str, Any]] = []
    if isinstance(value, list):
        children = [(f"{place}[{i}]", item) for i, item in enumerate(value)]
    elif isinstance(value, dict):
        for key, item in value.items():
            if _place_of_half_character(key, place) is not None:
                return place
            children.append((f"{place}.{key}" if place else key, item))
    return next((found for at, item in children if (found := _place_of_half_character(item, at)) is not None), None)
