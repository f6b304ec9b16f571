"""Where a JSON Schema holds schemas, and whether one that speaks of itself can ever be fulfilled by a text that ends; compiles nothing.

A schema needs others: a `$ref` its target, `allOf` all of its schemas, `anyOf` and `oneOf` one of them, an object what it requires, an
array its least number of items. Whatever does not follow from schemas that need nothing goes round for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote

from ..errors import InvalidRequestError

_DEFINITIONS = ("$defs", "definitions")
MAPS_OF_SCHEMAS = ("properties", "patternProperties", "dependentSchemas", *_DEFINITIONS)
LISTS_OF_SCHEMAS = ("anyOf", "oneOf", "allOf", "prefixItems")
SCHEMAS = ("additionalProperties", "additionalItems", "not", "if", "then", "else", "contains", "propertyNames")
"""`items` may be a schema or a list."""

Schema = dict[str, Any]


def check_ends(schema: Schema, place: str, check: Callable[[Schema, str], None]) -> None:
    """Raises `InvalidRequestError` naming a schema that no text can fulfil: an answer that enters it never ends. Definitions that nothing
    refers to do not matter. `schema` is well-formed, but a `$ref` may point to anything that stands in it: `check` raises if that is not
    (`schema_check.py`)."""
    found, waiting = {id(schema): (place, schema)}, [(place, schema)]
    checked = set(_ids(schema))
    while waiting:
        here, node = waiting.pop()
        if "$id" in node:  # then "#" below it may mean something else
            return
        pointed_at = _target(node, schema)
        where = place + unquote(node.get("$ref", ""))[1:].replace("/", ".")
        if pointed_at is not None and id(pointed_at) not in checked:
            check(pointed_at, where)
            checked.update(_ids(pointed_at))
        for there, other in (*_inside(node, here, with_definitions=False), *(() if pointed_at is None else ((where, pointed_at),))):
            if id(other) not in found:
                found[id(other)] = there, other
                waiting.append((there, other))
    endless = found.keys() - _fulfilled({key: _needs(node, schema) for key, (_, node) in found.items()})
    if endless:
        where = min((found[key][0] for key in endless), key=len)
        raise InvalidRequestError(
            f"{where} can never be fulfilled: it leads back to itself without a way out. Make a property on the way optional, or let an "
            "anyOf offer something else.",
            param=where,
        )


def _ids(schema: Schema) -> Iterator[int]:
    """Of it and of every schema in it."""
    waiting = [schema]
    while waiting:
        node = waiting.pop()
        yield id(node)
        waiting += (other for _, other in _inside(node, "", with_definitions=True))


def _inside(node: Schema, place: str, *, with_definitions: bool) -> Iterator[tuple[str, Schema]]:
    """The schemas that stand in it, with their places."""
    for keyword, value in node.items():
        if keyword in _DEFINITIONS and not with_definitions:
            continue
        if keyword in MAPS_OF_SCHEMAS:
            listed = [(f"{place}.{keyword}.{name[:40]}", item) for name, item in value.items()]
        elif keyword in LISTS_OF_SCHEMAS or (keyword == "items" and isinstance(value, list)):
            listed = [(f"{place}.{keyword}[{i}]", item) for i, item in enumerate(value)]
        elif keyword in SCHEMAS or keyword == "items":
            listed = [(f"{place}.{keyword}", value)]
        else:
            continue
        yield from ((where, item) for where, item in listed if isinstance(item, dict))


def _target(node: Schema, root: Schema) -> Schema | None:
    """What its `$ref` points to; None: nothing here."""
    pointer = unquote(node.get("$ref", ""))
    if pointer != "#" and not pointer.startswith("#/"):
        return None
    found: Any = root
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list):
            found = found[int(name)] if name.isdecimal() and int(name[:9]) < len(found) else None
        else:
            found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else None


def _needs(node: Schema, root: Schema) -> list[tuple[int, ...]]:
    """Of each group one must be fulfilled; schemas by their identity."""
    target = _target(node, root)
    needed: list[Any] = [] if target is None else [target]
    needed += node.get("allOf", [])
    if node.get("type") in ("object", ["object"]):
        needed += _needs_of_an_object(node)
    if node.get("type") in ("array", ["array"]):
        needed += _needs_of_an_array(node)
    groups: list[tuple[int, ...]] = [(id(schema),) for schema in needed if isinstance(schema, dict)]
    for keyword in ("anyOf", "oneOf"):
        if all(isinstance(schema, dict) for schema in node.get(keyword, [True])):
            groups.append(tuple(id(schema) for schema in node[keyword]))
    return groups


def _needs_of_an_object(node: Schema) -> list[Any]:
    named = node.get("properties", {})
    other = None if "patternProperties" in node else node.get("additionalProperties")
    needed = [named.get(name, other) for name in node.get("required", [])]
    return needed if named or node.get("minProperties", 0) == 0 else [*needed, other]


def _needs_of_an_array(node: Schema) -> list[Any]:
    least, first, others = node.get("minItems", 0), node.get("prefixItems", []), node.get("items")
    if isinstance(others, list):  # of older drafts
        first, others = others, node.get("additionalItems")
    return [*first[:least], *([others] if least > len(first) else [])]


def _fulfilled(needs: dict[int, list[tuple[int, ...]]]) -> set[int]:
    """Those that follow from such as need nothing. Each need is looked at once."""
    needed_by: dict[int, list[tuple[int, int]]] = {}
    for key, groups in needs.items():
        for number, group in enumerate(groups):
            for other in group:
                needed_by.setdefault(other, []).append((key, number))
    left = {key: set(range(len(groups))) for key, groups in needs.items()}
    waiting = [key for key, numbers in left.items() if not numbers]
    fulfilled = set(waiting)
    while waiting:
        for key, number in needed_by.get(waiting.pop(), ()):
            left[key].discard(number)
            if not left[key] and key not in fulfilled:
                fulfilled.add(key)
                waiting.append(key)
    return fulfilled
