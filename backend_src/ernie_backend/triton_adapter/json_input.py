"""Reads the JSON objects that users send; knows none of their fields."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

from ..errors import InvalidRequestError, json_kind
from ..json_depth import place_that_is_too_deep

_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


def read_json_object(text: str, name: str) -> dict[str, Any]:
    """The object in `text`, whose strings are all valid Unicode. `InvalidRequestError` naming the input `name`."""
    constants: list[str] = []

    def keep(constant: str) -> float:
        constants.append(constant)
        return math.nan

    try:
        given = json.loads(text, parse_constant=keep)
    except RecursionError:
        place = place_that_is_too_deep(text) or name
        raise InvalidRequestError(f"{place} is nested too deeply.", param=place) from None
    except ValueError as error:
        raise InvalidRequestError(f"{name} is not valid JSON: {error}.", param=name) from None
    if not isinstance(given, dict):
        raise InvalidRequestError(f"{name} must be a JSON object, got {json_kind(given)}.", param=name)
    if constants:
        place = _place_of(given, "", lambda value: isinstance(value, float) and math.isnan(value)) or name
        raise InvalidRequestError(f"{place} is {constants[0]}, which JSON does not know: give a finite number.", param=place)
    if _SURROGATE_ESCAPE.search(text):  # only such an escape can smuggle half a character into a string
        half = _place_of(given, "", _has_half_character)
        if half is not None:
            raise InvalidRequestError(
                f"{half or name} is not valid Unicode: it holds half of a surrogate pair, such as \\ud83d without what must follow.",
                param=half or name,
            )
    return given


def _has_half_character(value: Any) -> bool:
    return isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value)


def _place_of(value: Any, place: str, is_wrong: Callable[[Any], bool]) -> str | None:
    """`messages[0].content` of the first wrong leaf or key; None if there is none."""
    if is_wrong(value):
        return place
    children: list[tuple[str, Any]] = []
    if isinstance(value, list):
        children = [(f"{place}[{i}]", item) for i, item in enumerate(value)]
    elif isinstance(value, dict):
        if any(is_wrong(key) for key in value):
            return place
        children = [(f"{place}.{key}" if place else key, item) for key, item in value.items()]
    return next((found for at, item in children if (found := _place_of(item, at, is_wrong)) is not None), None)
