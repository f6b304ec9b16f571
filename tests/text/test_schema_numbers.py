"""Integers in schemas that llguidance would turn into others are refused by their place; what passes is what an answer says."""

from __future__ import annotations

import json
from typing import Any

import llguidance
import pytest

from ernie_backend.errors import InvalidRequestError
from ernie_backend.text.schema_check import check_end, check_schema

ID = 1234567890123456789


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"const": ID}, "s.const"),
        ({"enum": ["a", -ID]}, "s.enum"),
        ({"properties": {"a": {"anyOf": [True, {"items": {"enum": [{"id": [ID]}]}}]}}}, "s.properties.a.anyOf[1].items.enum"),
        ({"items": [{}, {"additionalProperties": {"const": ID}}]}, "s.items[1].additionalProperties.const"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"const": ID}}}, "s.$defs.a.const"),
        ({"$ref": "#/x", "x": {"const": ID}}, "s.x.const"),
        ({"type": "integer", "multipleOf": 2**53 + 1}, "s.multipleOf"),
        ({"const": 10**400}, "s.const"),
    ],
)
def test_an_integer_that_would_become_another_one_is_refused(schema: dict[str, Any], place: str) -> None:
    check_schema(schema, "s")  # nothing is wrong with it where no grammar is made of it
    with pytest.raises(InvalidRequestError, match="Make it a string") as caught:
        check_end(schema, "s")
    assert caught.value.param == place


@pytest.mark.parametrize("value", [0, -7, True, 2**53, -(2**53) + 1, 10**17, 2**60, 0.1, -2.5, {"id": [2**53]}, str(ID)])
def test_what_passes_is_what_an_answer_says(value: Any) -> None:
    check_end({"const": value}, "s")
    assert json.loads(_forced({"const": value, "x-guidance": {"whitespace_flexible": False}})) == value


@pytest.mark.parametrize("largest", [2**63 - 1, 2**64 - 1])
def test_bounds_of_64_bits_are_taken(largest: int) -> None:
    """As generated schemas of tools give them."""
    check_end({"type": "integer", "minimum": -largest, "maximum": largest, "exclusiveMaximum": largest + 2}, "s")


def test_this_is_still_why() -> None:
    assert json.loads(_forced({"const": ID})) != ID


def _forced(schema: dict[str, Any]) -> bytes:
    """The one text that follows the schema."""
    matcher = llguidance.LLMatcher(llguidance.LLTokenizer("byte"), json.dumps({"grammars": [{"json_schema": schema}]}), log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    text = b""
    while more := matcher.compute_ff_bytes():
        text += more
        matcher.consume_tokens(list(more))
    return text
