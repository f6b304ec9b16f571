"""What a user's JSON must be beyond Python's idea of it, and where it is not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ernie_backend.errors import InvalidRequestError
from ernie_backend.strict_json import read_object

PIECES = ["\\\\", "\\ud83d", "\\udc00", "\\uD800", "\\uDFFF", "\\u0041", '\\"', "ud800", "a", "é", "\\uD83D\\uDE00"]
TREES = st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(), st.lists)


@given(st.dictionaries(st.text(), TREES))
def test_what_is_proper_is_read_as_python_does(value: dict[str, Any]) -> None:
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False)):
        assert read_object(text, "it") == value


@given(st.lists(st.sampled_from(PIECES), max_size=8))
def test_half_a_character_is_found_however_it_is_escaped(pieces: list[str]) -> None:
    text = '{"a": "' + "".join(pieces) + '"}'
    is_whole = True
    try:
        json.loads(text)["a"].encode()
    except UnicodeEncodeError:
        is_whole = False
    if is_whole:
        assert read_object(text, "it") == json.loads(text)
    else:
        with pytest.raises(InvalidRequestError, match="a is not valid Unicode") as caught:
            read_object(text, "it")
        assert caught.value.param == "a"


@pytest.mark.parametrize(
    ("text", "param", "message"),
    [
        ('{"a": [{"b": [1, NaN]}]}', "a[0].b[1]", "a[0].b[1] is NaN, but JSON's numbers are finite."),
        ('{"a": -1e999}', "a", "a is -1e999, but"),
        ('{"a": [' + "[]," * 200_000 + "[NaN]]}", "it", "it holds NaN, but"),
        ('{"a": {"b": 1, "b": 2}}', "b", "The field 'b' stands twice"),
        ("[NaN]", "it", "it must be a JSON object, got a list."),
        ('{"a": ' + "9" * 5000 + "}", "it", "it holds a number with too many digits."),
        ('{"a": ' + "[" * 5000, "a[0][0][0]", "a[0][0][0] is nested too deeply."),
        ('{"a": 1', "it", "it is not valid JSON: Expecting ',' delimiter at character 7."),
    ],
    ids=lambda value: value[:20],
)
def test_the_place_is_named(text: str, param: str, message: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        read_object(text, "it", "it")
    assert caught.value.param == param and caught.value.message.startswith(message)


@pytest.mark.parametrize(
    ("text", "param", "message"),
    [
        ('{"minimum": NaN}', "f.minimum", "f.minimum is NaN, but"),
        ('{"n": 1, "n": 2}', "f.n", "The field 'n' stands twice in one JSON object of f."),
        ('{"a": ["\\ud83d"]}', "f.a[0]", "f.a[0] is not valid Unicode"),
        ('{"\\ud83d": 1}', "f", "f is not valid Unicode"),
        ('{"a": ' + "[" * 5000, "f.a[0][0][0]", "f.a[0][0][0] is nested too deeply."),
        ("{", "f", "f is not valid JSON"),
    ],
    ids=lambda value: value[:20],
)
def test_a_place_within_a_field_begins_with_the_field(text: str, param: str, message: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        read_object(text, "f", "f", within="f")
    assert caught.value.param == param and caught.value.message.startswith(message)
