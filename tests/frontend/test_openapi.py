"""The OpenAPI document says what is so: its ranges are those that preprocess checks, and answers have the shapes that it gives."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jsonschema_rs
import pytest

from ernie_backend.errors import InvalidRequestError
from ernie_backend.sampling_fields import parse_sampling_params
from ernie_backend.text.tools import read_tool_choice
from ernie_backend.triton_adapter.thinking import EFFORTS, OFF, ON, read_thinking
from ernie_openai.app import create_app
from ernie_openai.openapi import RANGES, THINKING_SWITCH

from .fakes import CHAT, COMPLETIONS, HELLO, FakeClient, http, logprob, settings, sse, words

DOCUMENT = create_app(settings(), FakeClient([])).openapi()


def validator(model: str) -> Any:
    schemas = DOCUMENT["components"]["schemas"]
    return jsonschema_rs.validator_for({"$ref": f"#/components/schemas/{model}", "components": {"schemas": schemas}})


@pytest.mark.parametrize("name", RANGES)
def test_ranges_are_those_of_preprocess(name: str) -> None:
    low, high = RANGES[name]
    for inside in (low, high, str(low)):
        parse_sampling_params({name: inside})
    for outside in (low - 1, high + 1, high * 2 + 1):
        with pytest.raises(InvalidRequestError):
            parse_sampling_params({name: outside})


def test_how_much_to_think_is_said_in_the_words_of_preprocess() -> None:
    is_valid = validator("ChatRequest").is_valid
    for value in (*THINKING_SWITCH, True, False):
        assert read_thinking({"enable_thinking": value}, {}, {}).enabled is not None and is_valid(HELLO | {"enable_thinking": value})
    assert set(THINKING_SWITCH) == {1, 0, *ON, *OFF} and not is_valid(HELLO | {"enable_thinking": "maybe"})
    assert all(is_valid(HELLO | {"reasoning_effort": effort}) for effort in EFFORTS)
    assert not is_valid(HELLO | {"reasoning_effort": "extreme"})


F: dict[str, Any] = {"type": "function", "function": {"name": "f"}}


def allowed(**given: Any) -> dict[str, Any]:
    return {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [F], **given}}


@pytest.mark.parametrize(
    ("choice", "is_one"),
    [
        *((choice, True) for choice in (None, "auto", "none", "required", F, {"function": {"name": "f"}}, allowed())),
        (allowed(mode="required", tools=[F, F]), True),
        (allowed(tools=[{**F, "function": {**F["function"], "description": "d", "parameters": {}}}] * 128), True),
        (allowed(tools=[F] * 129), False),
        *((choice, False) for choice in ("any", 5, [F], {}, {"type": "allowed_tools"}, {**F, "type": "custom"}, {"type": "function"})),
        *((allowed(**given), False) for given in ({"mode": "none"}, {"mode": None}, {"tools": []}, {"tools": F}, {"tools": ["f"]})),
        *((allowed(tools=[tool]), False) for tool in ({"function": {"name": "f"}}, {**F, "type": "custom"}, {**F, "function": {}})),
        ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]}, False),
    ],
)
def test_a_choice_of_tools_is_one_for_preprocess_if_the_document_says_so(choice: Any, is_one: bool) -> None:
    assert validator("ChatRequest").is_valid(HELLO | {"tool_choice": choice}) is is_one
    try:
        read_tool_choice(choice, [F])
    except InvalidRequestError:
        assert not is_one
    else:
        assert is_one


@pytest.mark.parametrize("kind", ["ChatRequest", "CompletionRequest"])
def test_requests_as_they_are_sent(kind: str) -> None:
    is_valid = validator(kind).is_valid
    asked: dict[str, Any] = HELLO if kind == "ChatRequest" else {"prompt": ["a", "b"]}
    for fields in ({}, {"temperature": 0.5, "stop": ["a"], "seed": None}, {"max_tokens": "5", "logit_bias": {"5": -100}}, {"best_of": 1}):
        assert is_valid(asked | fields), fields
    for fields in ({"temperature": -1}, {"stop": 5}, {"warmth": 1}, {"best_of": 2}, {"stream": "yes"}, {"max_tokens": 0}):
        assert not is_valid(asked | fields), fields


async def test_answers_have_their_shapes() -> None:
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    events = [replace(event, logprobs=(logprob(event.text, -0.5, {"x": -1.0}),)) for event in words(["Hi", " there"], reasoning="Hm.")]
    called = [replace(words(["", ""], finish="tool_calls")[1], tool_calls=(call,), prompt_token_ids=(1,))]
    for script in (events, called):
        async with http(FakeClient(script)) as front:
            ids = {"return_token_ids": True}
            usage = {"stream": True, "stream_options": {"include_usage": True}}
            chat, whole = validator("ChatCompletion"), validator("Completion")
            chat.validate((await front.post(CHAT, json=HELLO | ids | {"logprobs": True})).json())
            whole.validate((await front.post(COMPLETIONS, json={"prompt": "a", "logprobs": 1} | ids)).json())
            for path, model, body in ((CHAT, "ChatCompletionChunk", HELLO), (COMPLETIONS, "Completion", {"prompt": "a"})):
                chunks = sse((await front.post(path, json=body | usage | ids)).text)
                assert len(chunks) > 2
                for chunk in chunks[:-1]:
                    validator(model).validate(chunk)
    async with http(FakeClient([]), served_model_names=("e",)) as front:
        validator("ModelList").validate((await front.get("/v1/models")).json())
        validator("Model").validate((await front.get("/v1/models/e")).json())
        for answer in (await front.get("/v1/models/f"), await front.get("/nope"), await front.post(CHAT, json={})):
            validator("Error").validate(answer.json())


def test_every_operation_says_how_it_fails() -> None:
    for path, operations in DOCUMENT["paths"].items():
        for method, operation in operations.items():
            assert {"200", "400", "405", "414", "431", "500", "503"} <= set(operation["responses"]), (method, path)
            assert ("401" in operation["responses"]) == ("security" in operation) == (path not in ("/", "/health", "/ping"))
            answers = operation["responses"]["200"].get("content", {})
            assert all(each not in ({"schema": {}}, {}) for each in answers.values()), f"{method} {path}: what does it answer?"
            assert "requestBody" in operation or method != "post" or path == "/ping", f"{path}: what does it read?"
            if "requestBody" in operation:
                assert {"408", "413", "415", "429"} <= set(operation["responses"])
            if path in (CHAT, COMPLETIONS):
                assert "text/event-stream" in operation["responses"]["200"]["content"]
