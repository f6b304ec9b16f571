"""Whether a grammar can hold an answer to the numbers of a JSON Schema; compiles nothing.

llguidance reads every number as a double, and writes what it has read: of 1234567890123456789, a usual length for an id, an answer would
say 1234567890123456768. Digits of a fraction that a double has no room for are not looked at: no reader of the answer could keep them. Nor
are bounds: the largest of 64 bits, as generated schemas give it, moves by less than a double there can tell.
"""

from __future__ import annotations

from typing import Any

from ..errors import InvalidRequestError
from .schema_references import LISTS_OF_SCHEMAS, MAPS_OF_SCHEMAS, SCHEMAS, shortened

_VALUES = ("const", "enum", "multipleOf")


def check_numbers(schema: Any, place: str) -> None:
    """Of a checked schema. Raises `InvalidRequestError` naming the place of an integer that would become another one."""
    waiting: list[tuple[Any, str]] = [(schema, place)]
    while waiting:
        node, where = waiting.pop()
        if not isinstance(node, dict):
            continue
        for keyword, value in node.items():
            below = f"{where}.{keyword}"
            if keyword in _VALUES:
                _check_value(value, below)
            elif keyword in MAPS_OF_SCHEMAS:
                waiting += [(each, f"{below}.{name[:40]}") for name, each in value.items()]
            elif keyword in LISTS_OF_SCHEMAS or (keyword == "items" and isinstance(value, list)):
                waiting += [(each, f"{below}[{i}]") for i, each in enumerate(value)]
            elif keyword in SCHEMAS or keyword == "items":
                waiting.append((value, below))


def _check_value(value: Any, place: str) -> None:
    """`const` and `enum` may be any JSON."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, int) and not _is_double(each):
            shown = str(each) if abs(each) < 10**40 else "a longer one"
            raise InvalidRequestError(
                f"{shortened(place)}: an answer can be held to integers that a double represents, up to 2^53 all of them, got {shown}. "
                "Make it a string, or leave it out.",
                param=shortened(place),
            )
        if isinstance(each, (list, dict)):
            waiting += each.values() if isinstance(each, dict) else each


def _is_double(integer: int) -> bool:
    try:
        return int(float(integer)) == integer
    except OverflowError:
        return False
