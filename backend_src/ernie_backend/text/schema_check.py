"""Whether a JSON Schema is one, with the place of the first fault; knows no tools and compiles nothing.

Only what would make a schema meaningless is refused; keywords that nobody knows are not looked at.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from ..errors import InvalidRequestError, json_kind
from . import schema_recursion
from .schema_numbers import check_numbers
from .schema_references import LISTS_OF_SCHEMAS, MAPS_OF_SCHEMAS, SCHEMAS, shortened

MAX_DEPTH = 64
MAX_CHARACTERS = 2**18
"""Of the schema as JSON. The largest that are seen in practice have some 100,000."""
TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")


def check_schema(schema: Any, place: str) -> None:
    """Raises `InvalidRequestError` whose param is the fault's place, such as `tools[0].function.parameters.properties.city.type`."""
    _check(schema, place, 0)
    characters = len(json.dumps(schema, ensure_ascii=False))
    if characters > MAX_CHARACTERS:
        raise InvalidRequestError(f"{place} may have at most {MAX_CHARACTERS} characters of JSON, got {characters}.", param=place)


def check_end(schema: dict[str, Any], place: str) -> None:
    """Of a checked schema that a grammar holds an answer to. Raises `InvalidRequestError` if no text that ends fulfils it, or if a `$ref`
    points to what is no schema, or if it holds a number that no grammar can hold an answer to."""
    check_numbers(schema, place)

    def check_target(target: Any, where: str) -> None:
        _check(target, where, 0)
        check_numbers(target, where)

    schema_recursion.check_end(schema, place, check_target)


def _check(schema: Any, place: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise InvalidRequestError(f"{shortened(place)}: the schema is nested more than {MAX_DEPTH} deep.", param=shortened(place))
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        raise _refuse(place, "a JSON Schema, which is an object", schema)
    for keyword, value in schema.items():
        check = _KEYWORDS.get(keyword)
        if check is not None:
            check(value, f"{place}.{keyword}", depth)


def _refuse(place: str, rule: str, value: Any) -> InvalidRequestError:
    shown = json.dumps(value, ensure_ascii=False)[:60] if isinstance(value, (str, int, float)) else json_kind(value)
    return InvalidRequestError(f"{place} must be {rule}, got {shown}.", param=place)


def _type(value: Any, place: str, depth: int) -> None:
    names = value if isinstance(value, list) and value else [value]
    for name in names:
        if not isinstance(name, str) or name not in TYPES:
            raise _refuse(place, f"one of {', '.join(TYPES)}, or a list of them", name)


def _map_of_schemas(value: Any, place: str, depth: int) -> None:
    if not isinstance(value, dict):
        raise _refuse(place, "an object of schemas", value)
    for name, schema in value.items():
        _check(schema, f"{place}.{name[:40]}", depth + 1)


def _list_of_schemas(value: Any, place: str, depth: int) -> None:
    if not isinstance(value, list) or not value:
        raise _refuse(place, "a list of schemas that is not empty", value)
    for i, schema in enumerate(value):
        _check(schema, f"{place}[{i}]", depth + 1)


def _schema(value: Any, place: str, depth: int) -> None:
    _check(value, place, depth + 1)


def _schema_or_list(value: Any, place: str, depth: int) -> None:
    (_list_of_schemas if isinstance(value, list) else _schema)(value, place, depth)


def _values(value: Any, place: str, depth: int) -> None:
    if not isinstance(value, list) or not value:
        raise _refuse(place, "a list of values that is not empty", value)


def _names(value: Any, place: str, depth: int) -> None:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise _refuse(place, "a list of names", value)


def _text(value: Any, place: str, depth: int) -> None:
    if not isinstance(value, str):
        raise _refuse(place, "a string", value)


def _number(value: Any, place: str, depth: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _refuse(place, "a number", value)


def _count(value: Any, place: str, depth: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise _refuse(place, "an integer of at least 0", value)


_Check = Callable[[Any, str, int], None]
_KEYWORDS: dict[str, _Check] = {
    "type": _type,
    "enum": _values,
    "required": _names,
    "pattern": _text,
    "format": _text,
    "$ref": _text,
    "items": _schema_or_list,
    **dict.fromkeys(MAPS_OF_SCHEMAS, _map_of_schemas),
    **dict.fromkeys(LISTS_OF_SCHEMAS, _list_of_schemas),
    **dict.fromkeys(SCHEMAS, _schema),
    **dict.fromkeys(("minimum", "maximum", "multipleOf"), _number),
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"), _count),
}
