"""Tools, the choice among them, and calls in the history: brought into form, or refused by their place."""

from __future__ import annotations

from typing import Any

import pytest

from ernie_backend.errors import InvalidRequestError
from ernie_backend.text.messages import normalize_messages
from ernie_backend.text.schema_check import MAX_DEPTH, check_schema
from ernie_backend.text.tools import ToolChoice, normalize_tools, read_tool_choice

F = {"type": "function", "function": {"name": "f"}}
CITY = {"type": "object", "properties": {"city": {"type": "string", "enum": ["北京"]}}, "required": ["city"], "additionalProperties": False}


def refused(action: Any, *arguments: Any, **named: Any) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        action(*arguments, **named)
    return caught.value


def test_tools_are_kept_as_they_are() -> None:
    tool = {"type": "function", "function": {"name": "f", "strict": True, "description": "d", "parameters": CITY}}
    assert normalize_tools([tool]) == [tool]
    assert normalize_tools([{"name": "f", "parameters": None}]) == [F], "a bare function is wrapped, null is not given"
    for marked in ({**F, "cache_control": {"type": "ephemeral"}, "colour": None}, {"name": "f", "cache_control": {}, "colour": None}):
        assert normalize_tools([marked]) == [F], "what means something to other servers only is not shown to the model"


@pytest.mark.parametrize(
    ("tools", "param", "words"),
    [
        ({}, "tools", "must be a list"),
        ([F] * 129, "tools", "at most 128"),
        (["f"], "tools[0]", "must be an object"),
        ([F, {"type": "code_interpreter"}], "tools[1].type", "must be 'function'"),
        ([{"type": "function"}], "tools[0].function", "an object with a name"),
        ([{"function": {}}], "tools[0].function.name", "1 to 128 characters"),
        ([{"function": {"name": "x" * 129}}], "tools[0].function.name", "1 to 128 characters"),
        ([F, F], "tools[1].function.name", "two functions 'f'"),
        ([{"name": "f", "colour": 1}], "tools[0].colour", "Unknown field"),
        ([{"type": "function", "function": {"name": "f"}, "colour": 1}], "tools[0].colour", "Unknown field"),
        ([{"function": {"name": "f", "cache_control": {}}}], "tools[0].function.cache_control", "Unknown field"),
        ([{"name": "f", "description": 1}], "tools[0].description", "a string"),
        ([{"name": "f", "strict": 1}], "tools[0].strict", "true or false"),
        ([{"name": "f", "parameters": []}], "tools[0].parameters", "JSON Schema of an object"),
        ([{"name": "f", "parameters": {"type": "string"}}], "tools[0].parameters", "JSON Schema of an object"),
        ([{"function": {"name": "f", "parameters": {"properties": {"a": 1}}}}], "tools[0].function.parameters.properties.a", "got 1"),
    ],
)
def test_tools_refused(tools: Any, param: str, words: str) -> None:
    error = refused(normalize_tools, tools)
    assert error.param == param and words in error.message


@pytest.mark.parametrize(
    ("keyword", "value", "place"),
    [
        ("type", "objekt", "s.type"),
        ("type", ["string", 5], "s.type"),
        ("properties", [], "s.properties"),
        ("properties", {"a": {"type": "x"}}, "s.properties.a.type"),
        ("required", "a", "s.required"),
        ("enum", [], "s.enum"),
        ("anyOf", [], "s.anyOf"),
        ("anyOf", [True, {"items": 3}], "s.anyOf[1].items"),
        ("items", [{"minimum": "3"}], "s.items[0].minimum"),
        ("minLength", -1, "s.minLength"),
        ("maxItems", True, "s.maxItems"),
        ("pattern", 1, "s.pattern"),
        ("additionalProperties", "no", "s.additionalProperties"),
        ("$defs", {"a": {"not": 1}}, "s.$defs.a.not"),
    ],
)
def test_what_is_no_schema(keyword: str, value: Any, place: str) -> None:
    assert refused(check_schema, {keyword: value}, "s").param == place


def test_what_is_a_schema() -> None:
    check_schema({**CITY, "x-anything": 1, "const": None, "items": True, "description": "d"}, "s")
    check_schema(True, "s")


def test_schemas_that_are_too_deep_or_too_large() -> None:
    deep: Any = {"type": "string"}
    for _ in range(900):
        deep = {"type": "array", "items": deep}
    error = refused(normalize_tools, [{"name": "f", "parameters": {"properties": {"a": deep}}}])
    assert str(error.param).startswith("tools[0].parameters.properties.a.items.items") and len(str(error.param)) < 100
    assert f"more than {MAX_DEPTH} deep" in error.message
    assert refused(check_schema, {"enum": ["x" * 1000] * 300}, "s").param == "s"


G, H = ({"type": "function", "function": {"name": name}} for name in "gh")
ALLOWED = "tool_choice.allowed_tools"


def allowed(tools: Any, mode: Any = "auto", **more: Any) -> dict[str, Any]:
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools, **more}}


class TestChoice:
    def test_what_is_chosen(self) -> None:
        assert read_tool_choice(None, [F]) == read_tool_choice("auto", [F]) == ToolChoice("auto")
        assert read_tool_choice("none", [F]) == read_tool_choice(None, []) == read_tool_choice("auto", []) == ToolChoice("none")
        assert read_tool_choice("required", [F]) == ToolChoice("required")
        assert read_tool_choice(F, [F]) == ToolChoice("required", ("f",), one_call=True)
        given = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [G, F, G]}}
        assert read_tool_choice(given, [F, G, H]) == ToolChoice("auto", ("g", "f"))
        assert read_tool_choice(allowed([H], mode="required"), [F, G, H]) == ToolChoice("required", ("h",))
        assert read_tool_choice({**allowed([F]), "function": None}, [F]) == ToolChoice("auto", ("f",)), "null is not given"

    def test_whole_definitions_are_names(self) -> None:
        """What the client of OpenAI calls tool definitions; the one in `tools` counts, so that this is not looked at."""
        whole = {"type": "function", "function": {"name": "f", "strict": 5, "description": "d", "parameters": CITY}, "cache_control": {}}
        assert read_tool_choice(allowed([whole] * 128), [F, G]) == ToolChoice("auto", ("f",))
        assert read_tool_choice(whole, [F, G]) == ToolChoice("required", ("f",), one_call=True)

    @pytest.mark.parametrize(
        ("given", "param", "words"),
        [
            ("any", "tool_choice", "got 'any'"),
            (5, "tool_choice", "must be auto"),
            ({"type": "x", "function": {"name": "f"}}, "tool_choice", "must be auto"),
            ({"type": "function", "function": {}}, "tool_choice", "must be auto"),
            (
                {"type": "function", "function": {"name": "g"}},
                "tool_choice.function.name",
                "'g', which is not among the tools. The tools are: f",
            ),
            ({**G, "function": {"name": "f", "colour": 1}}, "tool_choice.function.colour", "Unknown field 'colour'"),
            ({**G, "name": "f"}, "tool_choice.name", "Unknown field 'name' in tool_choice"),
            ({**G, "allowed_tools": {}}, "tool_choice.allowed_tools", "Unknown field 'allowed_tools' in tool_choice"),
            ({"type": "allowed_tools"}, "tool_choice.allowed_tools", "got null"),
            ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]}, ALLOWED, "a mode and tools"),
            ({"type": "allowed_tools", "allowed_tools": ["f"]}, ALLOWED, "got a list"),
            ({**allowed([F]), "mode": "auto"}, "tool_choice.mode", "Unknown field"),
            ({**allowed([F]), "type": "allowed"}, "tool_choice", "must be auto"),
            (allowed([F], name="f"), f"{ALLOWED}.name", "Unknown field"),
            (allowed([F], mode=None), f"{ALLOWED}.mode", "auto or required, got null"),
            (allowed([F], mode="none"), f"{ALLOWED}.mode", "auto or required, got 'none'"),
            (allowed([]), f"{ALLOWED}.tools", "not empty"),
            (allowed(None), f"{ALLOWED}.tools", "must be a list"),
            (allowed({"0": F}), f"{ALLOWED}.tools", "must be a list"),
            (allowed(["f"]), f"{ALLOWED}.tools[0]", "must be an object, got a string"),
            (allowed([F, {"type": "custom", "custom": {"name": "f"}}]), f"{ALLOWED}.tools[1].type", "must be 'function'"),
            (allowed([{"function": {"name": "f"}}]), f"{ALLOWED}.tools[0].type", "must be 'function'"),
            (allowed([{"type": "function", "name": "f"}]), f"{ALLOWED}.tools[0].name", "Unknown field"),
            (allowed([{"type": "function"}]), f"{ALLOWED}.tools[0].function", "got null"),
            (allowed([{"type": "function", "function": {}}]), f"{ALLOWED}.tools[0].function.name", "1 to 128 characters"),
            (allowed([{"type": "function", "function": {"name": ["f"]}}]), f"{ALLOWED}.tools[0].function.name", "1 to 128 characters"),
            (allowed([{"type": "function", "function": {"name": "f", "colour": 1}}]), f"{ALLOWED}.tools[0].function.colour", "Unknown"),
            (allowed([F] * 129), f"{ALLOWED}.tools", "at most 128 tools, got 129"),
            (allowed([F, G]), f"{ALLOWED}.tools[1].function.name", "'g', which is not among the tools. The tools are: f"),
        ],
    )
    def test_refused(self, given: Any, param: str, words: str) -> None:
        error = refused(read_tool_choice, given, [F])
        assert error.param == param and words in error.message

    def test_without_tools(self) -> None:
        assert "there are no tools" in refused(read_tool_choice, "required", []).message
        assert "There are no tools" in refused(read_tool_choice, F, []).message
        assert "There are no tools" in refused(read_tool_choice, allowed([F]), []).message


def call(arguments: Any = None, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": arguments}, **more}]}


RESULT = {"role": "tool", "content": "R"}


class TestHistory:
    @pytest.mark.parametrize(
        ("arguments", "expected"), [({"a": 1}, {"a": 1}), ('{"a": "北京"}', {"a": "北京"}), ("", {}), (None, {}), ("null", {})]
    )
    def test_arguments_as_object_or_as_text(self, arguments: Any, expected: dict[str, Any]) -> None:
        (message,) = normalize_messages([call(arguments, id="x")], takes_tools=True)
        assert message == {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "x", "type": "function", "function": {"name": "f", "arguments": expected}}],
        }

    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            ("R", "R"),
            ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "ab"),
            ({"度": 20, "b": [1]}, '{"度": 20, "b": [1]}'),
        ],
    )
    def test_results_as_text_parts_or_object(self, content: Any, expected: str) -> None:
        messages = normalize_messages([call(id="x"), {"role": "tool", "content": content, "tool_call_id": "x"}], takes_tools=True)
        assert messages[1] == {"role": "tool", "content": expected, "tool_call_id": "x"}

    def test_several_results_and_no_ids(self) -> None:
        messages = normalize_messages([call(), RESULT, {**RESULT, "role": "function"}, call(id="x"), RESULT], takes_tools=True)
        assert [message["role"] for message in messages] == ["assistant", "tool", "tool", "assistant", "tool"]

    def test_results_come_out_in_the_order_of_their_calls(self) -> None:
        """Templates show no ids: a result in another call's place would be taken for that one's."""
        calls = {"role": "assistant", "tool_calls": [{"id": one, "function": {"name": "f"}} for one in "abc"]}

        def shown(*results: dict[str, Any]) -> list[str]:
            media: list[Any] = []
            messages = normalize_messages([calls, *results, {"role": "user", "content": "?"}, calls], media, takes_tools=True)
            assert [message["role"] for message in messages] == ["assistant", *["tool"] * len(results), "user", "assistant"]
            places = [part.url for part in media]
            return places or [message["content"] for message in messages[1:-2]]

        def result(one: str | None, content: Any = None) -> dict[str, Any]:
            return {"role": "tool", "tool_call_id": one, "content": content or f"of {one}"}

        assert shown(result("c"), result("a"), result("b")) == ["of a", "of b", "of c"]
        assert shown(result("c"), result("b")) == ["of b", "of c"], "one is still missing"
        assert shown(result("b"), result("a", "1"), result("a", "2")) == ["1", "2", "of b"]
        assert shown(result("c"), result(None), result("a")) == ["of c", "of None", "of a"], "whose is the second?"
        images = [[{"type": "image_url", "image_url": {"url": url}}] for url in "cab"]
        assert shown(*map(result, "cab", images)) == ["a", "b", "c"], "images go where their results go"
        calls["tool_calls"][1]["id"] = "a"
        assert shown(result("c"), result("a")) == ["of c", "of a"], "two calls of one id"
        with pytest.raises(InvalidRequestError, match=r"messages\[1\].tool_call_id is 'x'"):
            shown(result("x"), result("a"))

    def test_a_result_is_not_compared_with_every_call(self) -> None:
        """100,000 calls and 16,000 results, in 5 MB, took two minutes, in which nobody else's prompt was made."""
        compared = 0

        class Id(str):
            __hash__ = str.__hash__

            def __eq__(self, other: object) -> bool:
                nonlocal compared
                compared += 1
                return str.__eq__(self, other)

        calls = {"role": "assistant", "tool_calls": [{"id": Id(i), "function": {"name": "f"}} for i in range(200)]}
        results = [{"role": "tool", "tool_call_id": Id(i), "content": ""} for i in range(200)]
        assert len(normalize_messages([calls, *results], takes_tools=True)) == 201
        assert compared < 10 * 200

    @pytest.mark.parametrize(
        ("messages", "param", "words"),
        [
            ([RESULT], "messages[0]", "no assistant message with tool_calls"),
            ([call(), {"role": "user", "content": "x"}, RESULT], "messages[2]", "no assistant message with tool_calls"),
            ([call(id="x"), {**RESULT, "tool_call_id": "y"}], "messages[1].tool_call_id", "'y'"),
            ([call(), {"role": "tool"}], "messages[1].content", "is missing"),
            ([call("{"), RESULT], "messages[0].tool_calls[0].function.arguments", "not valid JSON"),
            ([call('{"a": "\\udead"}'), RESULT], "messages[0].tool_calls[0].function.arguments.a", "half of a surrogate pair"),
            ([call('{"\\udc00": 1}'), RESULT], "messages[0].tool_calls[0].function.arguments", "half of a surrogate pair"),
            (
                [call('{"a": [1, NaN]}'), RESULT],
                "messages[0].tool_calls[0].function.arguments.a[1]",
                "is NaN, but JSON's numbers are finite",
            ),
            ([call('{"a": 1e999}'), RESULT], "messages[0].tool_calls[0].function.arguments.a", "is 1e999, but"),
            ([call('{"a": 1, "a": 2}'), RESULT], "messages[0].tool_calls[0].function.arguments.a", "twice"),
            ([call('{"a":' * 520 + "1" + "}" * 520), RESULT], "messages[0].tool_calls[0].function.arguments", "too deeply"),
            ([call("[1]"), RESULT], "messages[0].tool_calls[0].function.arguments", "must be a JSON object, got a list"),
            ([call([1]), RESULT], "messages[0].tool_calls[0].function.arguments", "must be an object"),
            ([call(id=5)], "messages[0].tool_calls[0].id", "must be a string"),
            ([{"role": "assistant", "tool_calls": [{}]}], "messages[0].tool_calls[0]", "type 'function'"),
            ([{"role": "assistant", "tool_calls": {}}], "messages[0].tool_calls", "must be a list"),
            ([{"role": "assistant", "tool_calls": [{"function": {"name": ""}}]}], "messages[0].tool_calls[0].function.name", "a name"),
            ([{**call(), "role": "user", "content": "x"}], "messages[0].tool_calls", "assistant messages only"),
            ([{"role": "user", "content": "x", "tool_call_id": "y"}], "messages[0].tool_call_id", "Unknown field"),
            ([{"role": "wizard", "content": "x"}], "messages[0].role", "assistant, tool, got"),
        ],
    )
    def test_refused(self, messages: Any, param: str, words: str) -> None:
        error = refused(normalize_messages, messages, takes_tools=True)
        assert error.param == param and words in error.message
