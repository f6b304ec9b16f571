"""Where a JSON Schema holds schemas, and what its references point to: pointers, `$anchor`s and `$id`s; judges nothing.

What is not certain points nowhere: a name that two schemas have, an `$id` beside a `$ref` (which older drafts do not see), a way that leads
through a schema with an `$id` of its own (which "#" then stands for is read either way).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import unquote, urljoin

_DEFINITIONS = ("$defs", "definitions")
MAPS_OF_SCHEMAS = ("properties", "patternProperties", "dependentSchemas", *_DEFINITIONS)
LISTS_OF_SCHEMAS = ("anyOf", "oneOf", "allOf", "prefixItems")
SCHEMAS = ("additionalProperties", "additionalItems", "not", "if", "then", "else", "contains", "propertyNames")
"""`items` may be a schema or a list."""

Schema = dict[str, Any]


MAX_URL = 1024
"""Characters of a base with what is joined to it. Each schema with an `$id` and each reference makes one of its own; longer ones are not
followed."""


def schemas_inside(node: Schema, *, with_definitions: bool) -> Iterator[Schema]:
    """The schemas that stand in it."""
    for keyword, value in node.items():
        if keyword in _DEFINITIONS and not with_definitions:
            continue
        listed: Iterable[Any]
        if keyword in MAPS_OF_SCHEMAS:
            listed = value.values()
        elif keyword in LISTS_OF_SCHEMAS or (keyword == "items" and isinstance(value, list)):
            listed = value
        elif keyword in SCHEMAS or keyword == "items":
            listed = (value,)
        else:
            continue
        yield from (item for item in listed if isinstance(item, dict))


def shortened(place: str) -> str:
    """A place thousands of characters long helps nobody."""
    return place if len(place) <= 80 else place[:80] + "…"


class References:
    """Those of one schema, which is well-formed."""

    def __init__(self, root: Schema, place: str, check: Callable[[Schema, str], None]) -> None:
        """A `$ref` may point to anything that stands in the schema: `check` raises if that is none (`schema_check.py`)."""
        self._bases: dict[int, str | None] = {}
        """What "#" stands for in each schema that is known so far, by its identity. None: that is not certain."""
        self._named: dict[str, Schema | None] = {"": root}
        """By URL, or URL#anchor. None: two have that name."""
        self._root, self._place, self._check = root, place, check
        self._add(root, "")

    def target(self, node: Schema) -> Schema | None:
        """What the `$ref` of a known schema points to, which then is known, too. None: nothing, or that is not certain."""
        if not isinstance(node.get("$ref"), str):
            return None
        before, _, fragment = node["$ref"].partition("#")
        fragment = unquote(fragment)
        url = _joined(self._bases[id(node)], before)
        if url is None:
            return None
        if fragment and not fragment.startswith("/"):
            return self._named.get(f"{url}#{fragment}")
        resource = self._named.get(url)
        found = None if resource is None else _pointed_at(resource, fragment)
        if resource is not None and found is not None and id(found) not in self._bases:
            within = self._place if resource is self._root else f"{self._place}.{shortened(url)}"
            self._check(found, within + shortened(fragment.replace("/", ".")))
            self._add(found, url)
        return found

    def _add(self, schema: Schema, base: str | None) -> None:
        """It and all that stand in it."""
        waiting = [(schema, base)]
        while waiting:
            node, base = waiting.pop()
            if id(node) in self._bases:
                continue
            if isinstance(node.get("$id"), str):
                before, _, anchor = node["$id"].partition("#")
                base = None if "$ref" in node else _joined(base, before)
                self._name(node, base, anchor)  # of older drafts, if there is an anchor
            if isinstance(node.get("$anchor"), str):
                self._name(node, base, node["$anchor"])
            self._bases[id(node)] = base
            waiting += ((other, base) for other in schemas_inside(node, with_definitions=True))

    def _name(self, node: Schema, base: str | None, anchor: str) -> None:
        if base is not None:
            name = f"{base}#{anchor}" if anchor else base
            self._named[name] = node if self._named.get(name, node) is node else None


def _joined(base: str | None, reference: str) -> str | None:
    """A URL against the one that it is relative to. None: it is none, or too long."""
    if base is not None and len(base) + len(reference) > MAX_URL:
        return None
    try:
        return base if base is None or not reference else urljoin(base, reference)
    except ValueError:
        return None


def _pointed_at(root: Schema, pointer: str) -> Schema | None:
    found: Any = root
    for part in pointer.split("/")[1:]:
        if found is not root and isinstance(found, dict) and isinstance(found.get("$id"), str):
            return None
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list):
            found = found[int(name)] if name.isdecimal() and int(name[:9]) < len(found) else None
        else:
            found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else None
