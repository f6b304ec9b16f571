"""Formats that JSON Schema does not define, such as OpenAPI's `int64`, `binary` and `password` or pydantic's `path`: taken out.

They are notes for people, and JSON Schema has every reader pass over them; llguidance would refuse them. Those that it defines stay.
"""

from __future__ import annotations

from typing import Any

from .schema_references import LISTS_OF_SCHEMAS, MAPS_OF_SCHEMAS, SCHEMAS

DEFINED = frozenset(
    (
        *("date-time", "date", "time", "duration", "email", "idn-email", "hostname", "idn-hostname", "ipv4", "ipv6", "uuid", "regex"),
        *("uri", "uri-reference", "uri-template", "iri", "iri-reference", "json-pointer", "relative-json-pointer"),
    )
)


def without_unknown_formats(schema: Any) -> Any:
    """A copy of a checked schema, whose depth is bounded. What only a `$ref` makes a schema is left as it is."""
    if not isinstance(schema, dict):
        return schema
    return {keyword: _kept(keyword, value) for keyword, value in schema.items() if keyword != "format" or value in DEFINED}


def _kept(keyword: str, value: Any) -> Any:
    if keyword in MAPS_OF_SCHEMAS:
        return {name: without_unknown_formats(each) for name, each in value.items()}
    if keyword in LISTS_OF_SCHEMAS or (keyword == "items" and isinstance(value, list)):
        return [without_unknown_formats(each) for each in value]
    return without_unknown_formats(value) if keyword in SCHEMAS or keyword == "items" else value
