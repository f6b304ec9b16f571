"""Whether a JSON Schema that speaks of itself can ever be fulfilled by a text that ends; compiles nothing.

A schema needs others: a `$ref` its target, `allOf` all of its schemas, `anyOf` and `oneOf` one of them, an object what it requires, an
array its least number of items. Whatever does not follow from schemas that need nothing goes round for ever.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice, repeat
from typing import Any

from ..errors import InvalidRequestError
from .schema_references import References, Schema, schemas_inside

MAX_TOGETHER = 32
"""Schemas that hold for the same value and are looked at together; further ones are looked at by themselves."""
MAX_LOOKS = 200_000
"""At names and items of such schemas, in one check: 0.2 s. 4,000 required properties need 4,000. To leave a need out is safe: nothing is
called endless for that."""
MAX_ALTERNATIVES = 64
"""Among so many properties there is one that ends."""
_PLAIN_PATTERN = re.compile(r"(?:\^?\.\*|(?P<start>\^))?(?P<text>[\w -]*)(?:\.\*\$?|(?P<end>\$))?")

Group = tuple[int, ...]
"""Schemas by their identity, one of which must be fulfilled; empty: none must."""


def check_end(schema: Schema, place: str, check: Callable[[Schema, str], None]) -> None:
    """Raises `InvalidRequestError` if no text can fulfil the schema, so that an answer that keeps to it never ends. Parts that may be left
    out, such as an optional property, do not matter. `schema` is well-formed, and for `check` see `References`."""
    references = References(schema, place, check)
    found, waiting = {id(schema): schema}, [schema]
    held_to: dict[int, list[Schema]] = {}
    while waiting:
        node = waiting.pop()
        target = references.target(node)
        held_to[id(node)] = [*filter(_is_object, node.get("allOf", ())), *([] if target is None else [target])]
        for other in (*schemas_inside(node, with_definitions=False), *held_to[id(node)]):
            if id(other) not in found:
                found[id(other)] = other
                waiting.append(other)
    if id(schema) not in _fulfilled(_all_needs(found, held_to)):
        raise InvalidRequestError(
            f"{place} can never be fulfilled: it leads back to itself without a way out. Make a property on the way optional, or let an "
            "anyOf offer something else.",
            param=place,
        )


def _all_needs(schemas: dict[int, Schema], held_to: dict[int, list[Schema]]) -> dict[int, list[Group]]:
    """`held_to`: what holds wherever a schema does."""
    needs: dict[int, list[Group]] = {}
    for key, node in schemas.items():
        needs[key] = [(id(other),) for other in held_to[key]]
        needs[key] += (_one_of(node.get(keyword, ())) for keyword in ("anyOf", "oneOf"))
    tidied = {key: _tidied(node) for key, node in schemas.items()}
    looks = (
        (key, group) for key, node in schemas.items() for group in _needs_of_values([tidied[id(each)] for each in _together(node, held_to)])
    )
    for key, group in islice(looks, MAX_LOOKS):
        needs[key].append(group)
    return {key: [group for group in groups if group] for key, groups in needs.items()}


def _together(node: Schema, held_to: dict[int, list[Schema]]) -> list[Schema]:
    """`node` and what holds wherever it does, near ones first."""
    found = {id(node): node}
    waiting = deque([node])
    while waiting:
        for other in held_to[id(waiting.popleft())]:
            if len(found) == MAX_TOGETHER:
                return list(found.values())
            if id(other) not in found:
                found[id(other)] = other
                waiting.append(other)
    return list(found.values())


def _tidied(node: Schema) -> Schema:
    """With each name and each kind once: they are gone through wherever the schema holds."""
    named = {"required": [*dict.fromkeys(node["required"])]} if "required" in node else {}
    kinds = {"type": frozenset([node["type"]] if isinstance(node["type"], str) else node["type"])} if "type" in node else {}
    return {**node, **named, **kinds}


def _one_of(alternatives: Iterable[Any]) -> Group:
    """The need for one of these schemas; true is fulfilled, and false no way out."""
    listed = [schema for schema in alternatives if schema is not False]
    return tuple(map(id, listed)) if all(map(_is_object, listed)) else ()


def _is_object(schema: Any) -> bool:
    return isinstance(schema, dict)


# what the parts of a value must fulfil ---------------------------------------------------------------------------------------------


def _needs_of_values(together: Sequence[Schema]) -> Iterator[Group]:
    """Of a value that fulfils all of these, which are tidied. Each look yields, also in vain."""
    kinds = [each["type"] for each in together if "type" in each]
    kind = frozenset.intersection(*kinds) if kinds else frozenset()
    if kind == {"object"}:
        yield from _needs_of_an_object(together)
    elif kind == {"array"}:
        yield from _needs_of_an_array(together)


def _needs_of_an_object(together: Sequence[Schema]) -> Iterator[Group]:
    names = dict.fromkeys(name for each in together for name in each.get("required", []))
    has_any = not names and any(each.get("minProperties", 0) for each in together)
    for each in together:
        named, patterns, others = each.get("properties", {}), each.get("patternProperties", {}), each.get("additionalProperties", True)
        for name in names:
            yield from _needs_of_a_property(name, named, patterns, others)
        if has_any and len(named) + len(patterns) < MAX_ALTERNATIVES:
            alternatives = [*named.values(), *patterns.values(), others]
            yield _one_of(alternatives)
            yield from repeat((), len(alternatives))


def _needs_of_a_property(name: str, named: Schema, patterns: Schema, others: Any) -> Iterator[Group]:
    is_other, possible = name not in named, []
    yield _one_of([named.get(name, True)])
    for pattern, schema in patterns.items():
        matches = _matches(pattern, name)
        if matches is None:
            possible.append(schema)
        elif matches:
            is_other = False
        yield _one_of([schema]) if matches else ()
    if is_other:
        yield _one_of([*possible, others])


def _matches(pattern: str, name: str) -> bool | None:
    """None: that is not certain. Users' expressions are not run here: that may take for ever, and theirs is another dialect."""
    plain = _PLAIN_PATTERN.fullmatch(pattern)
    if plain is None or not name.isprintable():
        return None
    text = plain["text"]
    if plain["start"] and plain["end"]:
        return name == text
    return name.startswith(text) if plain["start"] else name.endswith(text) if plain["end"] else text in name


def _needs_of_an_array(together: Sequence[Schema]) -> Iterator[Group]:
    least = max(each.get("minItems", 0) for each in together)
    for each in together:
        first, others = each.get("prefixItems", []), each.get("items", True)
        if isinstance(others, list):  # of older drafts
            first, others = others, each.get("additionalItems", True)
        for item in (*first[:least], *([others] if least > len(first) else [])):
            yield _one_of([item])


def _fulfilled(needs: dict[int, list[Group]]) -> set[int]:
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
