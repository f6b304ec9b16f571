"""Formats that JSON Schema does not define say nothing; those that it does hold, or are refused."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ernie_backend.errors import InvalidRequestError
from ernie_backend.text.grammar import Body
from ernie_backend.text.grammar_process import GrammarProcess
from ernie_backend.text.schema_formats import without_unknown_formats


@pytest.fixture(scope="module")
def process() -> Iterator[GrammarProcess]:
    made = GrammarProcess()
    yield made
    made.close()


def of(name: str) -> dict[str, str]:
    return {"type": "string", "format": name}


@pytest.mark.parametrize("name", ["int64", "binary", "byte", "password", "path", "decimal"])
def test_formats_of_other_languages_have_no_effect(process: GrammarProcess, name: str) -> None:
    schema = {"type": "object", "properties": {"format": of(name), "b": {"type": "array", "items": {"anyOf": [of(name)]}}}}
    assert process.compiled(Body("json", schema, "s")) == process.compiled(Body("json", without_unknown_formats(schema), "s"))
    tag = {"trigger": "<a", "begin": "<a>", "schema": schema, "end": "</a>"}
    assert process.compiled(Body("tags", [tag], "s"))


def test_formats_that_are_defined_stay(process: GrammarProcess) -> None:
    schema = {"$defs": {"d": of("date")}, "items": [of("uuid")], "not": of("email"), "enum": [of("x")], "const": of("x")}
    assert without_unknown_formats(schema) == schema, "what stands in enum and const is no schema"
    assert '"date"' in str(process.compiled(Body("json", of("date"), "s"))).replace("'", '"')
    with pytest.raises(InvalidRequestError, match="Unknown format: regex"):
        process.compiled(Body("json", of("regex"), "s"))
