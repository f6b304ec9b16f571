"""Thoughts, tools and answers that must keep to something, from the openai client to a model of random weights that writes as x1 does."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import requests

from ernie_backend.cli.__main__ import main
from ernie_backend.cli.background import RunningServer
from ernie_backend.text.tokenizer import Tokenizer
from tests.e2e.kserve import Stream
from tests.e2e.server import running_server

SIZES = (
    "num_hidden_layers=2 hidden_size=64 intermediate_size=128 num_attention_heads=4 num_key_value_heads=2 head_dim=16 "
    "moe_intermediate_size=32 moe_num_experts=8 moe_k=2 moe_num_shared_experts=1"
)
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Determine weather in my location",
        "parameters": {
            "type": "object",
            "properties": {
                "location": {"type": "string", "maxLength": 12},
                "unit": {"type": "string", "enum": ["c", "f"]},
            },
            "additionalProperties": False,
            "required": ["location", "unit"],
        },
        "strict": True,
    },
}
TIME: dict[str, Any] = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "maxProperties": 0}}}
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
HELLO = [{"role": "user", "content": "How is the weather in 北京?"}]
SHORT_THOUGHT = {"reasoning_max_tokens": 6}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "ernie-thinking"
    assert main(["random-checkpoint", "--like", "ERNIE-4.5-21B-A3B-Thinking", "--out", str(folder), "--set", *SIZES.split()]) == 0
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[RunningServer]:
    flags = {"reasoning_parser": "ernie_x1", "tool_call_parser": "ernie_x1"}  # as the documents write them
    with running_server(folder, max_model_len=2048, max_num_seqs=16, **flags) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: RunningServer) -> openai.Client:
    return openai.Client(base_url=f"{server.openai_url}/v1", api_key="null", max_retries=0)


def named(function: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": function}}


def ask(client: openai.Client, messages: list[Any] = HELLO, *, extra: dict[str, Any] | None = None, **fields: Any) -> Any:
    return client.chat.completions.create(
        model="default", messages=messages, extra_body={**SHORT_THOUGHT, **(extra or {})}, **{"max_tokens": 200, "seed": 1, **fields}
    )


def streamed(client: openai.Client, **fields: Any) -> dict[str, Any]:
    """The deltas put together as a message."""
    message: dict[str, Any] = {"content": "", "reasoning_content": "", "calls": {}, "finish": None}
    for chunk in ask(client, stream=True, **fields):
        (choice,) = chunk.choices
        message["content"] += choice.delta.content or ""
        message["reasoning_content"] += getattr(choice.delta, "reasoning_content", None) or ""
        for call in choice.delta.tool_calls or []:
            found = message["calls"].setdefault(call.index, {"id": call.id, "name": "", "arguments": ""})
            found["name"] += call.function.name or ""
            found["arguments"] += call.function.arguments or ""
        message["finish"] = choice.finish_reason or message["finish"]
    return message


class TestThinking:
    def test_the_budget_closes_the_thought_and_the_answer_goes_on(self, client: openai.Client) -> None:
        answer = ask(client, max_tokens=40, extra={"return_token_ids": True})
        (choice,) = answer.choices
        assert choice.message.reasoning_content and choice.message.content
        assert choice.finish_reason in ("length", "stop")
        closing = [10 + 3, None, 10 + 3, 10 + 3]  # newline, </think>, two newlines: byte pieces follow the first three ids
        ids = choice.message.completion_token_ids
        assert [ids[6], ids[8], ids[9]] == [closing[0], closing[2], closing[3]]
        assert answer.usage.completion_tokens_details.reasoning_tokens == 8, "six of its own, a newline and the end marker"

    def test_the_answer_behind_the_thought_is_bounded(self, client: openai.Client) -> None:
        answer = ask(client, max_tokens=40, extra={"response_max_tokens": 3, "ignore_eos": True})
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage.completion_tokens == 6 + 4 + 3, "the budget, what closes the thought, the bound"

    @pytest.mark.parametrize("route", [{"enable_thinking": False}, {"chat_template_kwargs": {"options": {"thinking_mode": "close"}}}])
    def test_off(self, client: openai.Client, route: dict[str, Any]) -> None:
        answer = ask(client, max_tokens=20, extra=route)
        message = answer.choices[0].message
        assert message.content and not hasattr(message, "reasoning_content")
        assert answer.usage.completion_tokens_details.reasoning_tokens == 0

    def test_on_by_metadata_without_a_budget(self, client: openai.Client) -> None:
        answer = ask(client, max_tokens=20, extra={"metadata": {"enable_thinking": True}, "reasoning_max_tokens": None})
        message = answer.choices[0].message
        assert message.content is None and message.reasoning_content
        assert answer.usage.completion_tokens_details.reasoning_tokens == answer.usage.completion_tokens == 20

    def test_streamed_equals_whole(self, client: openai.Client) -> None:
        message = ask(client, max_tokens=60).choices[0].message
        parts = streamed(client, max_tokens=60)
        assert (parts["reasoning_content"], parts["content"]) == (message.reasoning_content, message.content)


class TestTools:
    def test_the_weather_conversation(self, client: openai.Client) -> None:
        """As FastDeploy's documents write it: arguments as an object, the result as a list of parts, no ids; and with `thoughts`."""
        call = {"type": "function", "function": {"name": "get_weather", "arguments": {"location": "北京", "unit": "c"}}}
        history: list[dict[str, Any]] = [
            *HELLO,
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": [{"type": "text", "text": "20 °C"}]},
        ]
        answer = ask(client, history, tools=[WEATHER], max_tokens=30)
        assert answer.choices[0].message.content or answer.choices[0].message.reasoning_content
        other: list[dict[str, Any]] = [
            *HELLO,
            {"role": "assistant", "thoughts": "hm", "tool_calls": [{**call, "id": "x"}]},
            {"role": "tool", "tool_call_id": "x", "content": {"度": 20}},
        ]
        assert ask(client, other, tools=[WEATHER], max_tokens=30).usage.prompt_tokens > answer.usage.prompt_tokens - 40

    @pytest.mark.parametrize("seed", range(3))
    def test_required_streamed_equals_whole(self, client: openai.Client, seed: int) -> None:
        fields: dict[str, Any] = {"tools": [WEATHER, TIME], "tool_choice": "required", "seed": seed, "temperature": 1.0, "max_tokens": 400}
        choice = ask(client, **fields).choices[0]
        calls = choice.message.tool_calls
        assert calls and choice.message.content is None and choice.message.reasoning_content
        assert choice.finish_reason in ("tool_calls", "length")
        for call in calls:
            assert call.function.name in ("get_weather", "get_time")
            arguments = json.loads(call.function.arguments)
            assert set(arguments) == ({"location", "unit"} if call.function.name == "get_weather" else set())
        assert len({call.id for call in calls}) == len(calls)
        parts = streamed(client, **fields)
        assert [(c["name"], c["arguments"]) for c in parts["calls"].values()] == [(c.function.name, c.function.arguments) for c in calls]
        assert (parts["finish"], parts["reasoning_content"]) == (choice.finish_reason, choice.message.reasoning_content)
        assert list(parts["calls"]) == list(range(len(calls)))

    def test_a_named_function(self, client: openai.Client) -> None:
        choice = ask(client, tools=[WEATHER, TIME], tool_choice={"type": "function", "function": {"name": "get_weather"}}).choices[0]
        (call,) = choice.message.tool_calls
        assert call.function.name == "get_weather" and json.loads(call.function.arguments)["unit"] in ("c", "f")
        assert choice.finish_reason == "tool_calls"

    def test_allowed_tools(self, client: openai.Client, server: RunningServer, folder: Path) -> None:
        """A model that calls wherever it can, calls only those; one that does not call says what it would say anyway."""
        both = [WEATHER, TIME]
        said: dict[str, Any] = {"tools": both, "max_tokens": 60, "temperature": 1.0, "extra": {"enable_thinking": False}}
        plain = ask(client, **said)
        auto: Any = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [named("get_time")]}}
        free = ask(client, tool_choice=auto, **said)
        assert free.choices == plain.choices and free.usage.prompt_tokens == plain.usage.prompt_tokens, "nothing else is different"
        opening = str(Tokenizer.from_folder(folder).token_id("<tool_call>"))
        fields: dict[str, Any] = {"tools": both, "logit_bias": {opening: 100}, "temperature": 1.0, "n": 4}
        for choice in ask(client, tool_choice=auto, parallel_tool_calls=False, **fields).choices:
            assert [call.function.name for call in choice.message.tool_calls] == ["get_time"]
            assert (choice.message.content, choice.finish_reason) == (None, "tool_calls")
        parts = streamed(client, tool_choice=auto, **{**fields, "n": 1})
        assert parts["calls"] and {call["name"] for call in parts["calls"].values()} == {"get_time"}
        required: Any = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [named("get_time")]}}
        chat = {"messages": HELLO, "tools": both, "tool_choice": required, "parallel_tool_calls": False}
        answer = Stream(server.triton_grpc, stream=True, chat=chat, sampling_parameters={**SHORT_THOUGHT, "max_tokens": 100}).answer()[0]
        assert "".join(delta["function"].get("name", "") for delta in answer["tool_calls"]) == "get_time"

    def test_one_call_only(self, client: openai.Client) -> None:
        choice = ask(client, tools=[TIME], tool_choice="required", parallel_tool_calls=False).choices[0]
        assert len(choice.message.tool_calls) == 1 and choice.finish_reason == "tool_calls"

    def test_answers_with_calls_are_counted_as_such(self, client: openai.Client, server: RunningServer) -> None:
        def counts() -> dict[str, int]:
            text = requests.get(server.metrics_url, timeout=10).text
            found = re.findall(r'^ernie_sequences_finished_total\{.*?reason="(\w+)".*?\} (\S+)$', text, re.MULTILINE)
            return {reason: int(float(value)) for reason, value in found}

        def after(reason: str, before: dict[str, int]) -> dict[str, int]:
            deadline = time.monotonic() + 20
            while (now := counts()) != before | {reason: before[reason] + 1}:
                assert time.monotonic() < deadline, (reason, before, now)
                time.sleep(0.1)
            return now

        time.sleep(1.5)  # what earlier tests did is published
        before = counts()
        ask(client, tools=[TIME], tool_choice="required", parallel_tool_calls=False)
        before = after("tool_calls", before)
        ask(client, extra={"guided_choice": ["yes"]}, tools=[TIME], tool_choice="none")
        before = after("stop", before)
        ask(client, tools=[TIME], max_tokens=2)
        after("length", before)

    def test_the_answer_as_history(self, client: openai.Client) -> None:
        """What the client got goes back as it is."""
        message = ask(client, tools=[TIME], tool_choice="required", parallel_tool_calls=False).choices[0].message
        result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "noon"}
        history = [*HELLO, message.model_dump(), result]
        assert ask(client, history, tools=[TIME], max_tokens=12).choices[0].finish_reason

    @pytest.mark.parametrize("streams", [True, False])
    def test_on_kserve(self, server: RunningServer, streams: bool) -> None:
        chat = {"messages": HELLO, "tools": [TIME], "tool_choice": "required", "parallel_tool_calls": False}
        stream = Stream(server.triton_grpc, stream=streams, chat=chat, sampling_parameters={**SHORT_THOUGHT, "max_tokens": 100})
        answer = stream.answer()[0]
        deltas = answer["tool_calls"]
        if not streams:
            (call,) = deltas
            assert call == {"index": 0, "id": call["id"], "type": "function", "function": {"name": "get_time", "arguments": "{}"}}
        assert answer["finish"] == "tool_calls" and answer["reasoning"] and answer["text"] == ""
        assert answer["usage"]["completion_tokens"] < 60, "the engine has heard of the end"
        assert "".join(delta["function"].get("name", "") for delta in deltas) == "get_time"
        assert "".join(delta["function"]["arguments"] for delta in deltas) == "{}"


class TestWhatAnAnswerMustKeepTo:
    @pytest.mark.parametrize("thinking", [True, False])
    @pytest.mark.parametrize("temperature", [0.0, 1.0])
    def test_json_schema(self, client: openai.Client, thinking: bool, temperature: float) -> None:
        response_format: Any = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}
        extra = {"enable_thinking": thinking}
        fields: dict[str, Any] = {"response_format": response_format, "temperature": temperature, "extra": extra, "n": 4}
        answer = ask(client, **fields)
        for choice in answer.choices:
            person = json.loads(choice.message.content)
            assert set(person) == {"name", "age", "tags"} and 0 <= person["age"] <= 150 and 1 <= len(person["name"]) <= 8
            assert choice.finish_reason == "stop"
        assert (answer.usage.completion_tokens_details.reasoning_tokens == 0) is not thinking
        parts = streamed(client, **{**fields, "n": 1})
        assert parts["content"] == ask(client, **{**fields, "n": 1}).choices[0].message.content

    @pytest.mark.parametrize(
        ("field", "value", "holds"),
        [
            ("guided_json", json.dumps(PERSON), lambda text: json.loads(text)["age"] >= 0),
            ("guided_choice", ["sunny", "rainy", "多云"], lambda text: text in ("sunny", "rainy", "多云")),
            ("guided_regex", r"[a-c]{3}-\d{2}", lambda text: text[3] == "-" and set(text[:3]) <= set("abc") and text[4:].isdigit()),
            ("guided_grammar", 'root ::= ("x" | "y")  "=" [0-9] [0-9]', lambda text: text[0] in "xy" and text[1] == "=" and len(text) == 4),
        ],
    )
    def test_guided(self, client: openai.Client, field: str, value: Any, holds: Any) -> None:
        choice = ask(client, extra={field: value}, temperature=1.0).choices[0]
        assert holds(choice.message.content) and choice.finish_reason == "stop"

    def test_text_is_free_until_a_trigger_is_said(self, client: openai.Client) -> None:
        """As FastDeploy's documents write it, but with triggers that random text is full of."""
        digit = {"type": "integer", "minimum": 0, "maximum": 9}
        structures = [{"begin": letter, "schema": digit, "end": ";"} for letter in "aeiou"]
        tags = {"type": "structural_tag", "structures": structures, "triggers": [*"aeiou"]}
        content = ask(client, max_tokens=120, temperature=1.0, extra={"response_format": tags}).choices[0].message.content
        assert re.fullmatch(r"([^aeiou]|[aeiou]\d;)*([aeiou]\d?)?", content) and re.search(r"[aeiou]\d;", content), content

    def test_the_clients_own_way(self, client: openai.Client) -> None:
        from pydantic import BaseModel, Field

        class Person(BaseModel):
            name: str = Field(max_length=5)
            pet: bool

        parsed = client.chat.completions.parse(
            model="default", messages=HELLO, response_format=Person, max_tokens=200, extra_body={"enable_thinking": False}
        )
        assert isinstance(parsed.choices[0].message.parsed, Person)

    def test_a_completion(self, server: RunningServer) -> None:
        body = {"prompt": "Answer:", "guided_choice": ["yes", "no"], "max_tokens": 10}
        answer = requests.post(f"{server.openai_url}/v1/completions", json=body, timeout=60).json()
        assert answer["choices"][0]["text"] in ("yes", "no")


def deep(levels: int) -> str:
    return '{"type":"array","items":' * levels + "{}" + "}" * levels


TOOL_CALL = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {"type": "objekt"}}}}}]},
         "tools[0].function.parameters.properties.a.type"),
        ({"tools": [TIME], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice.function.name"),
        ({"tools": [TIME], "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [named("g")]}}},
         "tool_choice.allowed_tools.tools[0].function.name"),
        ({"messages": [*HELLO, {"role": "tool", "content": "x"}]}, "messages[1]"),
        ({"messages": [*HELLO, TOOL_CALL]}, "messages[1].tool_calls[0].function.arguments"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "array", "uniqueItems": True}}}},
         "response_format.json_schema.schema"),
        ({"guided_regex": "(a"}, "guided_regex"),
        ({"guided_grammar": "root ::= ("}, "guided_grammar"),
        ({"guided_grammar": "start: start"}, "guided_grammar"),
        ({"guided_grammar": "start: <[999999999]>"}, "guided_grammar"),
        ({"guided_json": {"type": "object", "required": ["a\0b"], "properties": {"c": {}}, "additionalProperties": False}}, "guided_json"),
        ({"guided_regex": "a", "guided_choice": ["b"]}, "guided_choice"),
        ({"guided_regex": "a", "tools": [TIME], "tool_choice": "required"}, "guided_regex"),
        ({"guided_regex": "a", "min_tokens": 3}, "min_tokens"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"$ref": "#/nowhere"}}}], "tool_choice": "required"},
         "tools[0].function.parameters"),
    ],
)  # fmt: skip
def test_bad_input_is_a_400_that_names_the_place(server: RunningServer, fields: dict[str, Any], param: str) -> None:
    for stream in (False, True):
        response = requests.post(
            f"{server.openai_url}/v1/chat/completions", json={"messages": HELLO, **fields, "stream": stream}, timeout=60
        )
        assert response.status_code == 400, response.text
        assert response.json()["error"]["param"] == param, response.text


@pytest.mark.parametrize("levels", [100, 50_000])
def test_a_schema_without_a_bottom(server: RunningServer, levels: int) -> None:
    """The second one has over a megabyte."""
    tool = '{"type":"function","function":{"name":"f","parameters":' + deep(levels) + "}}"
    body = f'{{"messages":{json.dumps(HELLO)},"tools":[{tool}]}}'
    response = requests.post(
        f"{server.openai_url}/v1/chat/completions", data=body, headers={"content-type": "application/json"}, timeout=60
    )
    assert response.status_code == 400 and response.json()["error"]["param"].startswith("tools[0].function.parameters")
