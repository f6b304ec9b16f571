"""Reads the JSON objects that users send, on every face by the same rules; a leaf: knows none of their fields.

Stricter than Python's reader: numbers are finite, no field stands twice, strings are whole characters. Whatever is wrong is named by its
place, `messages[0].content`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

from .errors import MAX_PARAM_CHARACTERS, InvalidRequestError, json_kind
from .json_depth import place_that_is_too_deep

_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
"""Only such an escape can smuggle half a character into a string."""
_WHOLE_CHARACTERS = re.compile(r"(?:[^\\]++|\\(?:[^u]|u(?![dD][89a-fA-F])|u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}))*+")
"""The longest beginning of a JSON text whose escaped surrogates are all pairs."""
_MOST_CONTAINERS = 100_000
"""Looked into for a place to name; a body may hold millions, which would take seconds."""


def read_object(text: str, what: str, param: str | None = None, *, within: str = "") -> dict[str, Any]:
    """The object in `text`. Raises `InvalidRequestError` about `what` (`The request body`), with `param` where no place is known.

    `within`: the field whose value `text` is, which then stands before the places in it."""
    not_finite: list[str] = []

    def number(written: str) -> float:
        value = float(written)  # NaN and Infinity, too
        if not math.isfinite(value):
            not_finite.append(written)
        return value

    try:
        given = json.loads(text, object_pairs_hook=lambda pairs: _object(pairs, within), parse_constant=number, parse_float=number)
    except RecursionError:
        place = _below(within, place_that_is_too_deep(text))
        raise InvalidRequestError(f"{place or what} is nested too deeply.", param=place or param) from None
    except json.JSONDecodeError as error:
        raise InvalidRequestError(
            f"{what} is not valid JSON: {error.msg.removesuffix(' at')} at character {error.pos}.", param=param
        ) from None
    except ValueError:  # Python refuses to read integers of more than 4300 digits
        raise InvalidRequestError(f"{what} holds a number with too many digits.", param=param) from None
    if not isinstance(given, dict):
        raise InvalidRequestError(f"{what} must be a JSON object, got {json_kind(given)}.", param=param)
    if not_finite:
        place = _below(within, _place_of(given, float, lambda value: not math.isfinite(value)))
        verb = "is" if place else "holds"
        raise InvalidRequestError(f"{place or what} {verb} {not_finite[0][:40]}, but JSON's numbers are finite.", param=place or param)
    if holds_half_character(text):
        place = _below(within, _place_of(given, str, _has_half_character))
        raise InvalidRequestError(
            f"{place or what} is not valid Unicode: it holds half of a surrogate pair, such as \\ud83d without what must follow.",
            param=place or param,
        )
    return given


def doubled_name(pairs: list[tuple[str, Any]]) -> str | None:
    """The first that stands twice in an object."""
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            return name
        seen.add(name)
    return None


def holds_half_character(text: str) -> bool:
    """Whether a JSON text escapes half of a surrogate pair."""
    if _SURROGATE_ESCAPE.search(text) is None:
        return False
    whole = _WHOLE_CHARACTERS.match(text)
    return whole is not None and whole.end() < len(text)  # it always matches


def _object(pairs: list[tuple[str, Any]], within: str) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        name = str(doubled_name(pairs))[:80]
        where = f" of {within}" if within else ""
        raise InvalidRequestError(
            f"The field {name!r} stands twice in one JSON object{where}.", param=_below(within, _whole(name)) or within
        )
    return made


def _below(within: str, place: str | None) -> str | None:
    """None: no place is known, or it is the object itself."""
    return f"{within}.{place}" if within and place else place


def _has_half_character(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _place_of(given: dict[str, Any], kind: type, is_wrong: Callable[[Any], bool]) -> str | None:
    """Of a wrong value of this kind, or of the object with a wrong key, which is empty for `given`; None if it is too far away.

    Never recurses, and spells no place but that one."""
    waiting: list[tuple[Any, Any]] = [((), given)]  # (the way to a value: the way to what it is in, and the step from there; the value)
    looked_into = 0
    while waiting and looked_into <= _MOST_CONTAINERS:
        looked_into += 1
        way, value = waiting.pop()
        if isinstance(value, dict) and kind is str and any(map(is_wrong, value)):
            return _spelled(way)
        for step, item in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(item, kind) and is_wrong(item):
                return _spelled((way, step))
            if isinstance(item, (dict, list)) and len(waiting) < _MOST_CONTAINERS:
                waiting.append(((way, step), item))
    return None


def _spelled(way: Any) -> str:
    steps: list[str] = []
    while way:
        way, step = way
        steps.append(f"[{step}]" if isinstance(step, int) else f".{step[:40]}")
    return _whole("".join(reversed(steps)).removeprefix(".")[:MAX_PARAM_CHARACTERS])


def _whole(text: str) -> str:
    """For an answer, which could not be written with half a character in it."""
    return text.encode(errors="replace").decode()
