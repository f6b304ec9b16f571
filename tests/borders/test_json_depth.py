"""The way to what is nested too deeply."""

from __future__ import annotations

import json

import pytest

from ernie_backend.json_depth import place_that_is_too_deep

DEEP = "[" * 600 + "]" * 600


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (DEEP, "[0][0][0][0]"),
        ("[" * 600, "[0][0][0][0]"),
        ('{"a": 1, "b": [1, {"x": 0}, {"c": ' + DEEP + "}]}", "b[2].c[0]"),
        ('{"a": {}, "a b": ' + '{"k":' * 600 + "1" + "}" * 600 + "}", "a b.k.k.k"),
        ('{"a": "' + "[" * 600 + '\\"", "t": [[], ' + DEEP + "]}", "t[1][0][0]"),
        ('{"a": "' + "[" * 600 + '"}', None),
        (json.dumps([[1, {"a": []}]] * 1000), None),
        ("}}}]],,,", None),
    ],
)
def test_place(text: str, place: str | None) -> None:
    assert place_that_is_too_deep(text) == place
