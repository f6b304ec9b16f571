"""POST /v1/chat/completions: what reaches the ensemble and what comes back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ernie_backend.protocol import Usage
from ernie_openai.schemas import NOT_SUPPORTED_YET

from .fakes import CHAT, HELLO, FakeClient, http, logprob, sse, words


async def test_the_messages_reach_the_ensemble_as_they_are() -> None:
    client = FakeClient(words(["Hi"]))
    messages = [{"role": "system", "content": "你是"}, {"role": "user", "content": [{"type": "text", "text": "x"}]}]
    async with http(client) as front:
        response = await front.post(CHAT, json={"messages": messages})
    assert response.status_code == 200
    assert client.chat() == {"messages": messages}
    assert "你是" in (client.requests[0].chat or "")
    assert client.sampling() == {} and client.requests[0].text_input is None


async def test_a_whole_answer() -> None:
    async with http(FakeClient(words(["Hi", " 你", "好"], finish="length")), max_model_len=9) as front:
        answer = (await front.post(CHAT, json=HELLO | {"model": "any"})).json()
    assert answer["object"] == "chat.completion" and answer["model"] == "any" and answer["id"].startswith("chatcmpl-")
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hi 你好", "refusal": None},
            "logprobs": None,
            "finish_reason": "length",
        }
    ]
    assert answer["usage"] == {
        "prompt_tokens": 7,
        "completion_tokens": 3,
        "total_tokens": 10,
        "prompt_tokens_details": {"cached_tokens": 3, "image_tokens": 0, "video_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


async def test_chunks_come_in_the_order_that_clients_expect() -> None:
    async with http(FakeClient(words(["Hi", "", " 你好"]))) as front:
        response = await front.post(CHAT, json=HELLO | {"stream": True})
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert "你好" in response.content.decode()
    *chunks, done = sse(response.text)
    assert done == "[DONE]"
    assert [(c["choices"][0]["delta"], c["choices"][0]["finish_reason"]) for c in chunks] == [
        ({"role": "assistant", "content": ""}, None),
        ({"content": "Hi"}, None),
        ({"content": " 你好"}, None),
        ({"content": ""}, "stop"),
    ]
    assert len({c["id"] for c in chunks}) == 1 and all("usage" not in c for c in chunks)
    assert {c["object"] for c in chunks} == {"chat.completion.chunk"}


async def test_the_streamed_answer_adds_up_to_the_whole_one() -> None:
    first, second = words(["a", "b", "c"]), words(["x", "y"], index=1, finish="length")
    first[1] = replace(first[1], reasoning="think")
    script = [first[0], second[0], first[1], second[1], first[2]]
    body = HELLO | {"n": 2, "logprobs": True, "top_logprobs": 1, "return_token_ids": True}
    script = [replace(event, logprobs=(logprob(event.text, -0.5, {"q": -1.0}),)) for event in script]
    script = [replace(event, prompt_token_ids=(5, 6)) if event in script[:2] else event for event in script]
    async with http(FakeClient(script)) as front:
        whole = (await front.post(CHAT, json=body)).json()
        chunks = sse((await front.post(CHAT, json=body | {"stream": True, "stream_options": {"include_usage": True}})).text)
    added = {index: {"content": "", "reasoning_content": "", "ids": [], "logprobs": [], "prompt": None, "finish": None} for index in (0, 1)}
    for chunk in chunks[:-2]:
        (choice,) = chunk["choices"]
        mine = added[choice["index"]]
        mine["content"] += choice["delta"].get("content", "")
        mine["reasoning_content"] += choice["delta"].get("reasoning_content", "")
        mine["ids"] += choice.get("completion_token_ids", [])
        mine["logprobs"] += (choice["logprobs"] or {}).get("content", [])
        mine["prompt"] = mine["prompt"] or choice.get("prompt_token_ids")
        mine["finish"] = mine["finish"] or choice["finish_reason"]
    for choice in whole["choices"]:
        mine = added[choice["index"]]
        assert mine["content"] == choice["message"]["content"]
        assert mine["reasoning_content"] == choice["message"].get("reasoning_content", "")
        assert mine["ids"] == choice["completion_token_ids"] == choice["message"]["completion_token_ids"]
        assert mine["prompt"] == choice["prompt_token_ids"] == [5, 6]
        assert mine["logprobs"] == choice["logprobs"]["content"]
        assert mine["finish"] == choice["finish_reason"]
    assert chunks[-2]["usage"] == whole["usage"] and chunks[-2]["choices"] == []
    assert whole["usage"]["completion_tokens"] == 5 and whole["usage"]["prompt_tokens"] == 7


async def test_choices_open_and_end_one_by_one() -> None:
    first, second = words(["a", "b"]), words(["x", "y"], index=1)
    async with http(FakeClient([second[0], first[0], second[1], first[1]])) as front:
        chunks = sse((await front.post(CHAT, json=HELLO | {"n": 2, "stream": True})).text)
    seen = [(c["choices"][0]["index"], c["choices"][0]["delta"]["content"], c["choices"][0]["finish_reason"]) for c in chunks[:-1]]
    assert seen == [
        (1, "", None),
        (1, "x", None),
        (0, "", None),
        (0, "a", None),
        (1, "y", None),
        (1, "", "stop"),
        (0, "b", None),
        (0, "", "stop"),
    ]


@pytest.mark.parametrize(
    ("options", "usages"),
    [
        ({}, ["absent"] * 4),
        ({"include_usage": False}, ["absent"] * 4),
        ({"include_obfuscation": True}, ["absent"] * 4),
        ({"include_usage": True}, [None, None, None, None, 2]),
        ({"continuous_usage_stats": True}, [1, 1, 2, 2]),
        ({"include_usage": True, "continuous_usage_stats": True}, [1, 1, 2, 2, 2]),
    ],
)
async def test_usage_in_streams(options: dict[str, bool], usages: list[object]) -> None:
    async with http(FakeClient(words(["a", "b"]))) as front:
        *chunks, _ = sse((await front.post(CHAT, json=HELLO | {"stream": True, "stream_options": options})).text)
    found = [c.get("usage", "absent") for c in chunks]
    assert [u["completion_tokens"] if isinstance(u, dict) else u for u in found] == usages


async def test_logprobs() -> None:
    event = replace(words(["好"])[0], logprobs=(logprob("好", -0.25, {"好": -0.25, "x": -2.0}),))
    async with http(FakeClient([event])) as front:
        client_body = HELLO | {"logprobs": True, "top_logprobs": 2}
        choice = (await front.post(CHAT, json=client_body)).json()["choices"][0]
    entry = {"token": "好", "logprob": -0.25, "bytes": [229, 165, 189]}
    other = {"token": "x", "logprob": -2.0, "bytes": [120]}
    assert choice["logprobs"] == {"content": [entry | {"top_logprobs": [entry, other]}], "refusal": None}


@pytest.mark.parametrize(
    ("fields", "sent"),
    [({"logprobs": True}, 0), ({"logprobs": True, "top_logprobs": 3}, 3), ({"logprobs": False, "top_logprobs": 0}, None)],
)
async def test_logprobs_become_one_sampling_field(fields: dict[str, object], sent: int | None) -> None:
    client = FakeClient(words(["a"]))
    async with http(client) as front:
        await front.post(CHAT, json=HELLO | fields)
    assert client.sampling().get("logprobs") == sent


async def test_every_sampling_field_reaches_the_ensemble() -> None:
    fields = {
        "max_tokens": 5,
        "max_completion_tokens": 6,
        "temperature": 0.7,
        "top_p": 0,
        "frequency_penalty": 0.1,
        "presence_penalty": -0.1,
        "logit_bias": {"5": -100},
        "seed": 1,
        "stop": ["明天", "x"],
        "min_tokens": 2,
        "top_k": 20,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "bad_words": [" well"],
        "bad_words_token_ids": [1622],
        "stop_token_ids": [3],
        "include_stop_str_in_output": True,
        "ignore_eos": True,
        "skip_special_tokens": False,
        "return_token_ids": True,
    }
    client = FakeClient(words(["a"], prompt_token_ids=(1,)))
    async with http(client) as front:
        response = await front.post(CHAT, json=HELLO | fields | {"n": 1})
    assert response.status_code == 200
    assert client.sampling() == fields | {"n": 1}


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}},
        {"guided_json": {"type": "object"}},
        {"guided_regex": "a+"},
        {"guided_choice": ["a"]},
        {"guided_grammar": "root ::= x"},
        {"structural_tag": {"structures": [{"begin": "<a>", "schema": {}, "end": "</a>"}], "triggers": ["<a>"]}},
        {"reasoning_max_tokens": 10, "response_max_tokens": 5},
    ],
)
async def test_what_the_answer_must_keep_to_reaches_preprocess_as_given(fields: dict[str, object]) -> None:
    client = FakeClient(words(["a"]))
    async with http(client) as front:
        assert (await front.post(CHAT, json=HELLO | fields)).status_code == 200
    assert client.sampling() == fields


async def test_null_counts_as_not_given() -> None:
    client = FakeClient(words(["a"]))
    nulls = dict.fromkeys(
        ("model", "temperature", "tools", "response_format", "stream_options", "stream", "n", "user", "top_logprobs", "metadata")
    )
    options = {"stream": True, "stream_options": {"include_usage": None, "continuous_usage_stats": None}}
    async with http(client) as front:
        assert (await front.post(CHAT, json=HELLO | nulls)).status_code == 200
        assert "usage" not in (await front.post(CHAT, json=HELLO | options)).text
    assert client.sampling() == {}


@pytest.mark.parametrize(
    "fields",
    [
        {"user": "me"},
        {"store": False},
        {"metadata": {"team": "a"}},
        {"metadata": {name: {"any": "tag"} for name in NOT_SUPPORTED_YET}},
        {
            "metadata": {
                "priority": "high",
                "service_tier": "gold",
                "stream_options": "x",
                "echo": 1,
            }
        },
    ],
)
async def test_fields_that_ask_for_nothing_pass(fields: dict[str, object]) -> None:
    client = FakeClient(words(["a"]))
    async with http(client) as front:
        assert (await front.post(CHAT, json=HELLO | fields)).status_code == 200
    assert client.chat() == HELLO and client.sampling() == {}


@pytest.mark.parametrize(
    ("fields", "sent"),
    [
        ({"enable_thinking": False}, {"enable_thinking": False}),
        ({"metadata": {"enable_thinking": "false"}}, {"enable_thinking": "false"}),
        ({"metadata": {"enable_thinking": False}, "enable_thinking": True}, {"enable_thinking": True}),
        ({"reasoning_effort": "low"}, {"reasoning_effort": "low"}),
        ({"metadata": {"reasoning_effort": "none"}}, {"reasoning_effort": "none"}),
        (
            {"chat_template_kwargs": {"options": {"thinking_mode": "close"}}},
            {"chat_template_kwargs": {"options": {"thinking_mode": "close"}}},
        ),
        ({"disable_chat_template": True}, {"disable_chat_template": True}),
        ({"continue_final_message": True}, {"continue_final_message": True}),
        ({"add_generation_prompt": False}, {"add_generation_prompt": False}),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "strict": True}}], "tool_choice": "required"},
            {"tools": [{"type": "function", "function": {"name": "f", "strict": True}}], "tool_choice": "required"},
        ),
        (
            {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}},
            {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}},
        ),
        ({"tools": [], "parallel_tool_calls": False}, {"tools": [], "parallel_tool_calls": False}),
        ({"prompt_token_ids": [1, 2]}, {"prompt_token_ids": [1, 2]}),
    ],
)
async def test_what_makes_the_prompt_reaches_preprocess_as_given(fields: dict[str, object], sent: dict[str, object]) -> None:
    client = FakeClient(words(["a"]))
    async with http(client) as front:
        assert (await front.post(CHAT, json=HELLO | fields)).status_code == 200
    assert client.chat() == HELLO | sent


async def test_parameters_in_metadata_act_unless_given_themselves() -> None:
    client = FakeClient(words(["a"]))
    async with http(client) as front:
        await front.post(CHAT, json=HELLO | {"temperature": 0.5, "metadata": {"temperature": 0.1, "top_k": 4, "model": "x", "tag": 1}})
    assert client.sampling() == {"temperature": 0.5, "top_k": 4}


@pytest.mark.parametrize("body", [{"prompt_token_ids": [1, 2]}, {"messages": [], "prompt_token_ids": [1, 2]}, {"messages": [1, 2]}])
async def test_prompts_as_token_ids(body: dict[str, object]) -> None:
    client = FakeClient(words(["a"]))
    async with http(client) as front:
        assert (await front.post(CHAT, json=body)).status_code == 200
    assert client.chat() == body


@pytest.mark.parametrize(("given", "answer_id"), [("job-7", "chatcmpl-job-7"), ("chatcmpl-job-7", "chatcmpl-job-7")])
async def test_a_request_id_becomes_the_id(given: str, answer_id: str) -> None:
    client = FakeClient(words(["a"]))
    async with http(client) as front:
        answer = (await front.post(CHAT, json=HELLO | {"request_id": given})).json()
    assert answer["id"] == answer_id == client.requests[0].request_id


async def test_ids_differ() -> None:
    async with http(FakeClient(words(["a"]))) as front:
        ids = {(await front.post(CHAT, json=HELLO)).json()["id"] for _ in range(8)}
    assert len(ids) == 8


async def test_chunks_can_be_held_back_until_they_bring_some_tokens() -> None:
    events = words(["a", "b", "c", "d", "e"])
    async with http(FakeClient(events)) as front:
        body = HELLO | {"stream": True, "max_streaming_response_tokens": 2, "stream_options": {"continuous_usage_stats": True}}
        *chunks, _ = sse((await front.post(CHAT, json=body)).text)
    assert [c["choices"][0]["delta"]["content"] for c in chunks] == ["", "ab", "cd", "e", ""]
    assert [c["usage"]["completion_tokens"] for c in chunks] == [2, 2, 4, 5, 5]


async def test_reasoning_and_tool_calls_pass() -> None:
    call = {"index": 0, "id": "chatcmpl-tool-1", "type": "function", "function": {"name": "f", "arguments": ""}}
    piece = {"index": 0, "function": {"arguments": '{"a":'}}
    end = {"index": 0, "function": {"arguments": "1}"}}
    events = words(["", "", ""], finish="tool_calls")
    usage = Usage(prompt_tokens=7, completion_tokens=3, reasoning_tokens=1, image_tokens=4)
    events = [
        replace(events[0], reasoning="hm"),
        replace(events[1], tool_calls=(call, piece)),
        replace(events[2], tool_calls=(end,), usage=usage),
    ]
    async with http(FakeClient(events)) as front:
        whole = (await front.post(CHAT, json=HELLO)).json()
        chunks = sse((await front.post(CHAT, json=HELLO | {"stream": True})).text)
    assert whole["choices"][0]["message"] == {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "reasoning_content": "hm",
        "tool_calls": [{"id": "chatcmpl-tool-1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}],
    }
    assert whole["choices"][0]["finish_reason"] == "tool_calls"
    assert whole["usage"]["completion_tokens_details"] == {"reasoning_tokens": 1}
    assert whole["usage"]["prompt_tokens_details"]["image_tokens"] == 4
    deltas = [c["choices"][0]["delta"] for c in chunks[:-1]]
    assert deltas[1] == {"content": "", "reasoning_content": "hm"}
    joined = call | {"function": {"name": "f", "arguments": piece["function"]["arguments"]}}
    assert [d["tool_calls"] for d in deltas if "tool_calls" in d] == [[joined], [end]], "a call stands once in a chunk"


@pytest.mark.parametrize(
    ("served", "sent", "echoed"),
    [
        ((), None, "ernie"),
        ((), "null", "null"),
        ((), "gpt-4o", "gpt-4o"),
        (("ernie-4.5", "e"), None, "ernie-4.5"),
        (("ernie-4.5", "e"), "null", "ernie-4.5"),
        (("ernie-4.5", "e"), "default", "ernie-4.5"),
        (("ernie-4.5", "e"), "e", "e"),
        (("ernie-4.5", "e"), "gpt-4o", None),
        ((), "m" * 256, "m" * 256),
    ],
)
async def test_model_names(served: tuple[str, ...], sent: str | None, echoed: str | None) -> None:
    async with http(FakeClient(words(["a"])), served_model_names=served) as front:
        response = await front.post(CHAT, json=HELLO | ({} if sent is None else {"model": sent}))
        if echoed is None:
            assert response.status_code == 404
            assert response.json()["error"]["code"] == "model_not_found" and response.json()["error"]["param"] == "model"
        else:
            assert response.json()["model"] == echoed
