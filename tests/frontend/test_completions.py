"""POST /v1/completions: prompts in all forms, several at once, log-probabilities with offsets."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ernie_backend.protocol import Usage

from .fakes import COMPLETIONS, FakeClient, http, logprob, sse, words


async def test_a_whole_answer() -> None:
    client = FakeClient(words([" Bei", "jing"]))
    async with http(client) as front:
        answer = (await front.post(COMPLETIONS, json={"model": "null", "prompt": "Where is the capital of China?"})).json()
    assert client.requests[0].text_input == "Where is the capital of China?" and client.requests[0].chat is None
    assert answer["object"] == "text_completion" and answer["id"].startswith("cmpl-")
    assert answer["choices"] == [{"index": 0, "text": " Beijing", "logprobs": None, "finish_reason": "stop"}]


async def test_a_streamed_answer() -> None:
    async with http(FakeClient(words([" Bei", "jing"]))) as front:
        body = {"prompt": "x", "stream": True, "stream_options": {"include_usage": True}}
        *chunks, usage, done = sse((await front.post(COMPLETIONS, json=body)).text)
    assert done == "[DONE]" and usage["choices"] == [] and usage["usage"]["total_tokens"] == 9
    assert [(c["choices"][0]["text"], c["choices"][0]["finish_reason"]) for c in chunks] == [(" Bei", None), ("jing", None), ("", "stop")]


@pytest.mark.parametrize(
    ("body", "tensors"),
    [
        ({"prompt": "a"}, [("a", None)]),
        ({"prompt": ["a", "b"]}, [("a", None), ("b", None)]),
        ({"prompt": [1, 2]}, [(None, {"prompt_token_ids": [1, 2]})]),
        ({"prompt": [[1, 2], [3]]}, [(None, {"prompt_token_ids": [1, 2]}), (None, {"prompt_token_ids": [3]})]),
        ({"prompt_token_ids": [1, 2]}, [(None, {"prompt_token_ids": [1, 2]})]),
        ({"prompt_token_ids": [1, 2], "prompt": "unread"}, [(None, {"prompt_token_ids": [1, 2]})]),
        ({"prompt_token_ids": [1, 2], "prompt": ["a", [3], 4]}, [(None, {"prompt_token_ids": [1, 2]})]),
    ],
)
async def test_forms_of_the_prompt(body: dict[str, object], tensors: list[tuple[str | None, object]]) -> None:
    client = FakeClient(words(["x"]))
    async with http(client) as front:
        answer = (await front.post(COMPLETIONS, json=body)).json()
    sent = [(r.text_input, None if r.chat is None else client.chat(i)) for i, r in enumerate(client.requests)]
    assert sent == tensors
    assert [choice["index"] for choice in answer["choices"]] == list(range(len(tensors)))


async def test_several_prompts_with_several_choices_keep_their_numbers() -> None:
    scripts = [
        [e for pair in zip(words(["a", "b"], prompt_tokens=3), words(["c", "d"], 1, prompt_tokens=3), strict=True) for e in pair],
        words(["e"], 1, prompt_tokens=5) + words(["f", "g", "h"], prompt_tokens=5),
    ]
    client = FakeClient(*scripts)
    body = {"prompt": ["p", "q"], "n": 2, "request_id": "r"}
    async with http(client) as front:
        whole = (await front.post(COMPLETIONS, json=body)).json()
        chunks = sse((await front.post(COMPLETIONS, json=body | {"stream": True, "stream_options": {"include_usage": True}})).text)
    assert [(c["index"], c["text"]) for c in whole["choices"]] == [(0, "ab"), (1, "cd"), (2, "fgh"), (3, "e")]
    texts = dict.fromkeys(range(4), "")
    for chunk in chunks[:-2]:
        texts[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
    assert texts == {0: "ab", 1: "cd", 2: "fgh", 3: "e"}
    usage = whole["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["prompt_tokens_details"]["cached_tokens"]) == (8, 8, 3)
    assert chunks[-2]["usage"] == usage
    assert [r.request_id for r in client.requests[:2]] == ["cmpl-r-0", "cmpl-r-1"]


async def test_echo_is_a_sampling_field() -> None:
    client = FakeClient(words(["Q: A"]))
    async with http(client) as front:
        answer = (await front.post(COMPLETIONS, json={"prompt": "Q:", "echo": True})).json()
    assert client.sampling() == {"echo": True} and answer["choices"][0]["text"] == "Q: A"


@pytest.mark.parametrize("fields", [{"suffix": ""}, {"best_of": 1}, {"suffix": None}, {"best_of": None}])
async def test_fields_that_ask_for_nothing_pass(fields: dict[str, object]) -> None:
    async with http(FakeClient(words(["a"]))) as front:
        assert (await front.post(COMPLETIONS, json={"prompt": "x"} | fields)).status_code == 200


@pytest.mark.parametrize("split", [(1, 1, 1, 1), (4,), (2, 2), (1, 3)])
async def test_text_offsets_do_not_depend_on_how_events_are_cut(split: tuple[int, ...]) -> None:
    """Two tokens hold one character: the second begins none. Offsets count characters, not bytes."""
    halves = [logprob("", -0.1), logprob("", -0.2)]
    halves[0] |= {"token": "bytes:\\xe5\\xa5", "bytes": [0xE5, 0xA5]}
    halves[1] |= {"token": "bytes:\\xbd", "bytes": [0xBD]}
    items = [logprob("ab", -1.0, {"ab": -1.0, "z": -3.0}), *halves, logprob("c", -2.0)]
    texts = ["ab", "", "好", "c"]
    events, at = [], 0
    for size in split:
        end = at + size
        events.append(
            replace(
                words(["".join(texts[at:end])], finish="stop")[0],
                token_ids=tuple(range(at, end)),
                logprobs=tuple(items[at:end]),
                finish_reason="stop" if end == 4 else None,
                usage=Usage(prompt_tokens=1, completion_tokens=end),
            )
        )
        at = end
    client = FakeClient(events)
    body = {"prompt": "x", "logprobs": 1}
    async with http(client) as front:
        whole = (await front.post(COMPLETIONS, json=body)).json()["choices"][0]
        chunks = sse((await front.post(COMPLETIONS, json=body | {"stream": True})).text)
    assert client.sampling() == {"logprobs": 1}
    assert whole["text"] == "ab好c"
    assert whole["logprobs"] == {
        "tokens": ["ab", "bytes:\\xe5\\xa5", "bytes:\\xbd", "c"],
        "token_logprobs": [-1.0, -0.1, -0.2, -2.0],
        "top_logprobs": [{"ab": -1.0, "z": -3.0}, {"bytes:\\xe5\\xa5": -0.1}, {"bytes:\\xbd": -0.2}, {"c": -2.0}],
        "text_offset": [0, 2, 3, 3],
    }
    streamed: dict[str, list[object]] = {}
    for chunk in chunks[:-1]:
        for name, values in (chunk["choices"][0]["logprobs"] or {}).items():
            streamed.setdefault(name, []).extend(values)
    assert streamed == whole["logprobs"]


async def test_token_ids_stand_in_each_choice() -> None:
    events = words(["a", "b"], prompt_token_ids=(4, 5))
    client = FakeClient(events)
    async with http(client) as front:
        whole = (await front.post(COMPLETIONS, json={"prompt": "x", "return_token_ids": True})).json()
        chunks = sse((await front.post(COMPLETIONS, json={"prompt": "x", "return_token_ids": True, "stream": True})).text)
    assert client.sampling() == {"return_token_ids": True}
    assert whole["choices"][0]["prompt_token_ids"] == [4, 5] and whole["choices"][0]["completion_token_ids"] == [100, 101]
    assert chunks[0]["choices"][0]["prompt_token_ids"] == [4, 5]
    assert [c["choices"][0].get("completion_token_ids") for c in chunks[:-1]] == [[100], [101], None]


async def test_more_answers_than_one_request_may_ask_for() -> None:
    async with http(FakeClient(words(["x"]))) as front:
        response = await front.post(COMPLETIONS, json={"prompt": ["a"] * 256, "n": 128})
    assert response.status_code == 400 and response.json()["error"]["param"] == "n"
