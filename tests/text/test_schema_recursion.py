"""Schemas that speak of themselves: which of them no text can ever fulfil, held against what llguidance lets an answer say."""

from __future__ import annotations

import heapq
import json
from itertools import count
from typing import Any

import jsonschema_rs
import llguidance
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_backend.errors import InvalidRequestError
from ernie_backend.text.grammar import json_grammar
from ernie_backend.text.schema_check import check_end, check_schema
from tests.text.test_tools import refused


def check(schema: dict[str, Any], place: str) -> None:
    check_schema(schema, place)
    check_end(schema, place)


LIST = {"type": "object", "properties": {"next": {"$ref": "#"}}}
TREE = {"$ref": "#/$defs/t", "$defs": {"t": {"type": "object", "properties": {"l": {"$ref": "#/$defs/l"}}, "required": ["l"]}}}
ENDLESS = {"d": {"type": "object", "properties": {"n": {"$ref": "#/$defs/d"}}, "required": ["n"]}}
LOOPS: list[tuple[dict[str, Any], str | None]] = [
    ({"$ref": "#"}, "s"),
    ({"oneOf": [{"allOf": [{"$ref": "#"}]}, {"$ref": "#"}]}, "s"),
    ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/%24defs/a"}}}, "s"),
    (LIST | {"required": ["next"]}, "s"),
    ({"type": "array", "items": {"$ref": "#"}, "minItems": 1}, "s"),
    (TREE | {"$defs": TREE["$defs"] | {"l": {"type": "array", "prefixItems": [True, {"$ref": "#"}], "minItems": 2}}}, "s"),
    (LIST | {"required": ["next"], "type": ["object"]}, "s"),
    ({"type": "object", "additionalProperties": {"$ref": "#"}, "required": ["a"]}, "s"),
    ({"type": "object", "additionalProperties": {"$ref": "#"}, "minProperties": 1}, "s"),
    ({"type": "array", "items": [{"$ref": "#"}], "minItems": 1}, "s"),
    ({"type": "array", "prefixItems": [True], "items": {"$ref": "#"}, "minItems": 2}, "s"),
    (LIST, None),
    ({"type": "array", "prefixItems": [True], "items": {"$ref": "#"}, "minItems": 1}, None),
    ({"type": "array", "items": [True], "additionalItems": {"$ref": "#"}, "minItems": 1}, None),
    ({"type": "object", "additionalProperties": {"$ref": "#"}, "patternProperties": {"a": True}, "required": ["a"]}, None),
    ({"type": "object", "properties": {"a": True}, "additionalProperties": {"$ref": "#"}, "minProperties": 1}, None),
    ({"type": "object", "properties": {"a": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}, "required": ["a"]}, None),
    ({"anyOf": [{"$ref": "#"}, {"type": "string"}]}, None),
    ({"type": "array", "items": {"$ref": "#"}}, None),
    (TREE | {"$defs": TREE["$defs"] | {"l": {"type": "array", "items": {"$ref": "#/$defs/t"}}}}, None),
    (LIST | {"required": ["next"], "type": ["object", "null"]}, None),
    ({"const": {"$ref": "#"}}, None),
    ({"type": "string", "$defs": {"unused": {"$ref": "#/$defs/unused"}}}, None),
    ({"anyOf": [{"type": "string"}, {"type": "object", "properties": {"x": {"$ref": "#/anyOf/1"}}, "required": ["x"]}]}, None),
    ({"type": "object", "properties": {"a": {"$ref": "#/properties/a"}}}, None),
    ({"type": "object", "properties": {"a": {"$ref": "#/$defs/d"}}, "$defs": ENDLESS}, None),
    ({"type": "object", "properties": {"a": {"$ref": "#/$defs/d"}}, "$defs": ENDLESS, "required": ["a"]}, "s"),
    ({"type": "array", "items": {"$ref": "#/$defs/d"}, "$defs": ENDLESS}, None),
    ({"type": "object", "not": {"$ref": "#/$defs/d"}, "$defs": ENDLESS}, None),
    (LIST | {"required": ["next"], "nullable": True}, "s"),
]
HERE = "https://here.example/s"
THERE = "https://there.example/t"
END = {"type": "null"}
LOOP = "#/$defs/b"


def needs(reference: str, **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"n": {"$ref": reference}}, "required": ["n"], **more}


NAMED: list[tuple[dict[str, Any], str | None]] = [
    (needs("#", **{"$id": HERE}), "s"),
    (needs(HERE, **{"$id": HERE}), "s"),
    (needs("s", **{"$id": f"{HERE}#"}), "s"),
    (needs("/s#", **{"$id": HERE}), "s"),
    (needs("urn:a:b", **{"$id": "urn:a:b"}), "s"),
    (needs("#/properties/n", **{"$id": "urn:a:b"}), "s"),
    (needs("#here", **{"$anchor": "here"}), "s"),
    (needs("#%68ere", **{"$anchor": "here"}), "s"),
    (needs(f"{HERE}#here", **{"$anchor": "here", "$id": HERE}), "s"),
    (needs("#there", **{"$defs": {"a": needs("#there", **{"$anchor": "there"})}}), "s"),
    (needs(THERE, **{"$defs": {"a": {"$id": THERE, **needs("#")}}}), "s"),
    (needs("t", **{"$id": HERE, "$defs": {"a": {"$id": "t", **needs("#")}}}), "s"),
    (needs("#/$defs/a", **{"$defs": {"a": {"$id": THERE, **needs("#")}, "b": END}}), "s"),
    (needs("#q", **{"$schema": "http://json-schema.org/draft-07/schema#", "definitions": {"a": {"$id": "#q", **needs("#q")}}}), "s"),
    (needs("#", **{"$id": HERE, "required": []}), None),
    (needs("#there", **{"$anchor": "here", "$defs": {"a": {**END, "$anchor": "there"}}}), None),
    (needs(THERE, **{"$id": HERE, "$defs": {"a": {**END, "$id": THERE}}}), None),
    (needs("#a", **{"$anchor": "b", "$defs": {"a": {**END, "$anchor": "a"}, "b": {"$id": THERE, "$anchor": "a", **needs("#a")}}}), None),
    (needs("#/$defs/a", **{"$defs": {"a": {"$id": THERE, "$ref": "#/$defs/b", "$defs": {"b": END}}, "b": needs("#")}}), None),
    (needs("#/$defs/a/$defs/c", **{"$defs": {"b": END, "a": {"$id": THERE, "$defs": {"b": needs(LOOP), "c": {"$ref": LOOP}}}}}), None),
    (
        {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "anyOf": [{"$ref": "#/definitions/a", "$id": THERE, "definitions": {"a": needs("#/definitions/a")}}],
            "definitions": {"a": END},
        },
        None,
    ),
]


def joined(*schemas: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"allOf": [*schemas], **more}


NEXT = {"type": "object", "properties": {"n": {"$ref": "#"}}}
REQUIRED = {"required": ["n"]}
COMBINED: list[tuple[dict[str, Any], str | None]] = [
    (joined(NEXT, REQUIRED), "s"),
    (joined(REQUIRED, **NEXT), "s"),
    (joined(NEXT, **REQUIRED), "s"),
    (joined(NEXT, joined(joined(REQUIRED))), "s"),
    (joined({"properties": NEXT["properties"]}, REQUIRED, {"type": ["object", "null"]}, {"type": ["array", "object"]}), "s"),
    (joined({"$ref": "#/$defs/r"}, NEXT, **{"$defs": {"r": REQUIRED}}), "s"),
    ({**NEXT, "$ref": "#/$defs/r", "$defs": {"r": joined(REQUIRED)}}, "s"),
    ({"$ref": "#/$defs/a", "$defs": {"a": joined({"$ref": "#/$defs/r"}, needs("#/$defs/a", required=[])), "r": REQUIRED}}, "s"),
    (joined({"minItems": 1}, type="array", items={"$ref": "#"}), "s"),
    (joined({"minItems": 2}, type="array", prefixItems=[True], items={"$ref": "#"}), "s"),
    (joined({"minProperties": 1}, type="object", additionalProperties={"$ref": "#"}), "s"),
    ({**NEXT, "additionalProperties": False, "minProperties": 1}, "s"),
    ({**NEXT, "additionalProperties": {"$ref": "#"}, "minProperties": 1}, "s"),
    (joined(NEXT, {"required": ["m"]}), None),
    (joined(NEXT, REQUIRED, {"type": ["object", "null"]}), "s"),
    (joined({"properties": NEXT["properties"]}, REQUIRED), None),
    (joined({"properties": NEXT["properties"], "type": ["object", "null"]}, REQUIRED), None),
    ({"anyOf": [NEXT, REQUIRED]}, None),
    ({**NEXT, "anyOf": [REQUIRED, {"required": ["m"]}]}, None),
    (joined({"minItems": 1}, type="array", prefixItems=[True], items={"$ref": "#"}), None),
    (joined({"$ref": "#/$defs/b"}, REQUIRED, **{"$defs": {"b": needs("#/$defs/b", required=[])}}), None),
]


def matched(*patterns: str, others: Any = True, name: str = "ab", **more: Any) -> dict[str, Any]:
    listed = {pattern: {"$ref": "#"} for pattern in patterns}
    return {"type": "object", "patternProperties": listed, "additionalProperties": others, "required": [name], **more}


MATCHED: list[tuple[dict[str, Any], str | None]] = [
    *(
        (matched(pattern), "s")
        for pattern in ("^a", "b$", "^ab$", "a", "", "^", "$", ".*", "^.*$", "^.*b", ".*b$", "a.*", "^a.*$", "^.*ab$")
    ),
    *((matched(pattern), None) for pattern in ("^b", "a$", "^a$", "ac", "^.*a$", "^b.*", "^abc$")),
    *((matched(pattern, others={"$ref": "#"}), "s") for pattern in ("^b", "[ab]+", "^(a|b)")),
    *((matched(pattern, others=False), "s") for pattern in ("^a", "[a-c]", "^(a|b)", r"\w")),
    (matched("^b", "[0-9]", others={"$ref": "#"}), "s"),
    (matched("^b", others={"$ref": "#"}, properties={"ab": True}), None),
    (matched("^a", properties={"ab": True}), "s"),
    (matched("^a", required=[]), None),
    (matched("^a", required=[], minProperties=1, others=False), "s"),
    (matched("^a", required=[], minProperties=1), None),
    (matched("[0-9]", others=END), None),
    (matched("^.*$", name="a\nb"), None),
    (joined(matched("^a", required=[]), {"required": ["ab"]}), "s"),
    (joined(matched("^a", required=[]), {"required": ["b"]}), None),
]


@pytest.mark.parametrize(("schema", "place"), [*LOOPS, *NAMED, *COMBINED, *MATCHED])
def test_schemas_that_speak_of_themselves_must_have_a_way_out(schema: dict[str, Any], place: str | None) -> None:
    if place is None:
        check(schema, "s")
    else:
        error = refused(check, schema, "s")
        assert error.param == place and error.message.startswith(f"{place} can never be fulfilled: it leads back to itself")


IN_STRINGS, ELSEWHERE = b'abmn"', b'{}[]:,"0nul-'
MOST_STEPS = 600


def matcher_of(schema: dict[str, Any]) -> Any:
    grammar = json.dumps({"grammars": [json_grammar(schema)]})
    return llguidance.LLMatcher(llguidance.LLTokenizer("byte"), grammar, log_level=0)


def shortest_text(matcher: Any) -> str | None:
    """What llguidance lets an answer say that then may end; None: there is no such text, or none with few steps."""
    numbers = count()
    waiting = [(0, next(numbers), b"", matcher)]
    for _ in range(MOST_STEPS):
        if not waiting:
            break
        _, _, text, matcher = heapq.heappop(waiting)
        if matcher.is_accepting():
            return text.decode()
        allowed = matcher.compute_bitmask()
        forced = matcher.compute_ff_bytes()[:1]
        for byte in forced or (IN_STRINGS if text.count(b'"') % 2 else ELSEWHERE):
            if allowed[byte // 8] >> byte % 8 & 1:
                further = matcher.deep_copy()
                further.consume_token(byte)
                heapq.heappush(waiting, (len(text) + 1, next(numbers), text + bytes([byte]), further))
    return None


NOT_IN_LLGUIDANCE = ("oneOf constraints", "min/maxProperties only supported when", 'Unimplemented keys: ["not"]', "are not disjoint")
"""What it refuses of these for reasons of its own: it holds no answer to them."""


@pytest.mark.parametrize(("schema", "place"), [*LOOPS, *NAMED, *COMBINED, *MATCHED])
def test_what_is_called_endless_has_no_end_for_llguidance_either(schema: dict[str, Any], place: str | None) -> None:
    """And what is not has one. OpenAPI's `nullable` says nothing to llguidance: null is no way out."""
    matcher = matcher_of(schema)
    if matcher.is_error():
        assert any(words in matcher.get_error() for words in NOT_IN_LLGUIDANCE)
    else:
        assert (shortest_text(matcher) is None) == (place == "s")


def _values(inner: list[Any]) -> list[Any]:
    return [
        None,
        0,
        "a",
        [],
        {},
        *([x] for x in inner),
        *([x, y] for x in inner for y in inner),
        *({name: x} for name in "ab" for x in inner),
    ]


VALUES = _values(_values([None, 0, {}, []]))
REFERENCES = st.sampled_from([{"$ref": reference} for reference in ("#", "#/$defs/d", "#q", HERE)])
CONDITIONS: list[dict[str, Any]] = [{"required": ["a"]}, {"minProperties": 1}, {"minItems": 1}, {"type": "object"}, {"$ref": "#/$defs/c"}]
PLAIN = st.sampled_from([True, {"type": "null"}, {"const": 0}])
INNER = st.deferred(lambda: PLAIN | REFERENCES | OBJECTS | ARRAYS | _joined(INNER))
OBJECTS = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["object", ["object"], ["object", "null"]]),
    },
    optional={
        "properties": st.dictionaries(st.sampled_from("ab"), REFERENCES | INNER, min_size=1, max_size=1),
        "patternProperties": st.dictionaries(st.sampled_from(["a", "^b", "^a$", "[ab]", ".*"]), REFERENCES | INNER, max_size=1),
        "additionalProperties": REFERENCES | INNER,
        "required": st.just(["a"]),
        "minProperties": st.integers(0, 1),
        "allOf": st.lists(st.sampled_from(CONDITIONS), min_size=1, max_size=2),
    },
)
ARRAYS = st.fixed_dictionaries(
    {"type": st.sampled_from(["array", ["array"], ["array", "null"]])},
    optional={"items": REFERENCES | INNER, "prefixItems": st.lists(INNER, min_size=1, max_size=2), "minItems": st.integers(0, 2)},
)


def _joined(schemas: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.dictionaries(st.sampled_from(["anyOf", "oneOf", "allOf"]), st.lists(schemas, min_size=1, max_size=2), min_size=1, max_size=1)


NAMES: list[dict[str, Any]] = [{}, {"$anchor": "q"}, {"$id": HERE}, {"$id": THERE, "$anchor": "q"}]
WHOLE = st.builds(
    lambda root, name, definition, its_name: root | name | {"$defs": {"c": {"required": ["a"]}, "d": definition | its_name}},
    OBJECTS | ARRAYS | _joined(OBJECTS),
    st.sampled_from(NAMES),
    OBJECTS | ARRAYS | st.just(END),
    st.sampled_from(NAMES),
)


def _nothing(url: str) -> Any:
    raise KeyError(url)


@settings(max_examples=600, deadline=None)
@given(WHOLE.filter(lambda schema: "$ref" in str(schema)))
def test_no_schema_is_called_endless_that_a_value_fulfils(schema: dict[str, Any]) -> None:
    try:
        check(schema, "s")
    except InvalidRequestError as error:
        assert error.param == "s"
        matcher = matcher_of(schema)
        if not matcher.is_error():  # a reference that nobody can follow, or a schema that is nothing but itself: as one likes
            validator = jsonschema_rs.Draft202012Validator(schema, retriever=_nothing)
            fulfils = [value for value in VALUES if validator.is_valid(value)]
            assert (shortest_text(matcher), fulfils) == (None, []), schema


@pytest.mark.parametrize(
    ("target", "place"),
    [
        ({"type": "array", "minItems": "3"}, "s.x.y.minItems"),
        ({"$ref": 5}, "s.x.y.$ref"),
        ({"allOf": 5}, "s.x.y.allOf"),
        ({"type": "object", "required": 7}, "s.x.y.required"),
        ({"type": "object", "required": [[1]]}, "s.x.y.required"),
        ({"properties": [1]}, "s.x.y.properties"),
    ],
)
def test_what_a_reference_points_to_must_be_a_schema(target: dict[str, Any], place: str) -> None:
    """Also where no schema would stand."""
    error = refused(check, {"$ref": "#/x/y", "x": {"y": target}}, "s")
    assert error.param is not None and error.param.startswith(place)


def test_what_a_reference_points_to_is_named_shortly() -> None:
    long = "x" * 5000
    for schema in (
        {"$ref": f"#/{long}", long: {"minItems": "3"}},
        {"$ref": f"http://a/{long[:900]}#/x", "$defs": {"a": {"$id": f"http://a/{long[:900]}", "x": {"minItems": "3"}}}},
    ):
        error = refused(check, schema, "s")
        assert "minItems must be an integer" in error.message and len(error.message) < 200 and len(str(error.param)) < 200


@pytest.mark.parametrize("name", [{"$anchor": "a"}, {"$id": HERE}])
@pytest.mark.parametrize("definitions", [["end", "loop"], ["loop", "end"]])
def test_a_name_that_two_schemas_have_is_not_followed(name: dict[str, str], definitions: list[str]) -> None:
    """JSON Schema does not say which of them is meant."""
    reference = name.get("$id", "#a")
    listed = {"end": {**END, **name}, "loop": needs(reference, **name)}
    check(needs(reference, **{"$defs": {key: listed[key] for key in definitions}}), "s")
