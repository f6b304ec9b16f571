"""The KServe face: tritonclient streams, /generate and /generate_stream."""

from __future__ import annotations

import json

import httpx
import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from ernie_backend.cli.background import RunningServer
from tests.e2e.kserve import Stream
from tests.e2e.observe import wait_until_idle

GREEDY = {"temperature": 0, "ignore_eos": True}


def test_streamed_equals_whole(server: RunningServer) -> None:
    inputs = {"text_input": "Where is the capital of China?", "max_tokens": 24, "sampling_parameters": GREEDY}
    streamed = Stream(server.triton_grpc, **inputs).answer()[0]
    whole = Stream(server.triton_grpc, stream=False, **inputs).answer()[0]
    assert whole["responses"] == 1 and streamed["responses"] > 1
    assert (streamed["text"], streamed["ids"], streamed["finish"]) == (whole["text"], whole["ids"], whole["finish"])
    assert len(whole["ids"]) == 24 and whole["finish"] == "length"
    assert streamed["usage"] == whole["usage"] | {"cached_tokens": streamed["usage"]["cached_tokens"]}


def test_a_stop_string_ends_both_kinds(server: RunningServer) -> None:
    inputs = {"text_input": "stop", "max_tokens": 3000}
    full = Stream(server.triton_grpc, stream=False, text_input="stop", max_tokens=60, sampling_parameters=GREEDY).answer()[0]["text"]
    stop = full[40:44]
    expected = full[: full.index(stop)]
    for stream in (True, False):
        answer = Stream(server.triton_grpc, stream=stream, **inputs, sampling_parameters={**GREEDY, "stop": stop}).answer()[0]
        assert (answer["text"], answer["finish"]) == (expected, "stop")
        assert answer["usage"]["completion_tokens"] <= 60, "the engine stopped, too"
    wait_until_idle(server)


def test_choices_come_with_their_index(server: RunningServer) -> None:
    sampling = {"n": 3, "temperature": 1, "seed": 3, "ignore_eos": True}
    answers = Stream(server.triton_grpc, text_input="many", max_tokens=8, sampling_parameters=sampling).answer()
    assert sorted(answers) == [0, 1, 2] and len({tuple(a["ids"]) for a in answers.values()}) == 3
    lone = Stream(server.triton_grpc, text_input="many", max_tokens=8, sampling_parameters={**sampling, "n": 1, "seed": 5}).answer()
    assert lone[0]["ids"] == answers[2]["ids"], "choice i draws with seed + i"


def test_chat_and_generate(server: RunningServer) -> None:
    chat = json.dumps({"messages": [{"role": "user", "content": "hi"}]})
    streamed = Stream(server.triton_grpc, chat=chat, max_tokens=8, sampling_parameters=GREEDY).answer()[0]
    body = {"chat": chat, "max_tokens": 8, "sampling_parameters": json.dumps(GREEDY)}
    whole = httpx.post(f"{server.triton_url}/v2/models/ernie/generate", json={**body, "stream": False}, timeout=60).json()
    assert whole["text_output"] == streamed["text"] and whole["finish_reason"] == "length"
    texts = []
    with httpx.stream(
        "POST", f"{server.triton_url}/v2/models/ernie/generate_stream", json={**body, "stream": True}, timeout=60
    ) as response:
        for line in response.iter_lines():
            if line:
                texts.append(json.loads(line.removeprefix("data: "))["text_output"])
    assert "".join(texts) == streamed["text"] and len(texts) > 1


def test_numbers_as_strings_and_the_prompt_in_the_output(server: RunningServer) -> None:
    sampling = {"temperature": "0", "max_tokens": "5", "ignore_eos": "true"}
    answer = Stream(server.triton_grpc, text_input="echo", exclude_input_in_output=False, sampling_parameters=sampling).answer()[0]
    assert answer["text"].startswith("echo") and len(answer["ids"]) == 5


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({}, "text_input"),
        ({"text_input": "a", "chat": {"messages": [{"role": "user", "content": "a"}]}}, "text_input"),
        ({"text_input": b"\xff\xfe"}, "UTF-8"),
        ({"chat": "{"}, "JSON"),
        ({"chat": {"messages": []}}, "messages"),
        ({"chat": {"messages": [{"role": "king", "content": "a"}]}}, "messages[0].role"),
        ({"chat": {"messages": [{"role": "user", "content": 5}]}}, "messages[0].content"),
        ({"chat": {"prompt_token_ids": [10**6]}}, "prompt_token_ids"),
        ({"chat": {"messages": [{"role": "user", "content": "a"}], "surprise": 1}}, "surprise"),
        ({"text_input": "a", "sampling_parameters": "{"}, "sampling_parameters"),
        ({"text_input": "a", "sampling_parameters": "[]"}, "sampling_parameters"),
        ({"text_input": "a", "sampling_parameters": '{"temperature": NaN}'}, "temperature"),
        ({"text_input": "a", "sampling_parameters": {"top_p": 2}}, "top_p"),
        ({"text_input": "a", "sampling_parameters": {"warmth": 2}}, "warmth"),
        ({"text_input": "a", "sampling_parameters": {"stop_token_ids": [103424]}}, "stop_token_ids"),
        ({"text_input": "a", "max_tokens": -1}, "max_tokens"),
        ({"text_input": "a", "max_tokens": 5000}, "4096"),
        ({"text_input": "word " * 6000}, "4096"),
        ({"text_input": "x" * 5_000_000}, "4096"),
        ({"text_input": ""}, "text_input"),
    ],
)
def test_bad_input_is_invalid_argument(server: RunningServer, inputs: dict[str, object], words: str) -> None:
    with pytest.raises(InferenceServerException) as caught:
        Stream(server.triton_grpc, **inputs).answer()
    message = caught.value.message()
    assert words in message and "(type: invalid_request_error" in message, message
    assert "/" not in message.replace("text/", ""), "no paths"


def test_bad_input_on_http_generate_is_400(server: RunningServer) -> None:
    answer = httpx.post(f"{server.triton_url}/v2/models/ernie/generate", json={"text_input": "a", "max_tokens": -5}, timeout=30)
    assert answer.status_code == 400 and "max_tokens" in answer.json()["error"]


def test_generate_reads_parameters_and_drops_none(server: RunningServer) -> None:
    url = f"{server.triton_url}/v2/models/ernie/generate"
    greedy = Stream(server.triton_grpc, text_input="hi", max_tokens=6, sampling_parameters=GREEDY).answer()[0]["text"]
    for body in ({"temperature": 0, "ignore_eos": True}, {"parameters": {"stream": False, "temperature": 0, "ignore_eos": True}}):
        answer = httpx.post(url, json={"text_input": "hi", "max_tokens": 6, **body}, timeout=30)
        assert answer.status_code == 200 and answer.json()["text_output"] == greedy
    answer = httpx.post(url, json={"text_input": "hi", "foo": 1}, timeout=30)
    assert answer.status_code == 400 and "foo" in answer.json()["error"]


def test_what_readme_says_cannot_be_had(server: RunningServer) -> None:
    url = f"{server.triton_url}/v2/models/ernie"
    prompt = {"inputs": [{"name": "text_input", "datatype": "BYTES", "shape": [1], "data": ["hi"]}]}
    assert httpx.post(f"{url}/infer", json=prompt, timeout=30).status_code == 501
    text = grpcclient.InferInput("text_input", [1], "BYTES")
    text.set_data_from_numpy(np.array([b"hi"], dtype=object))
    with grpcclient.InferenceServerClient(server.triton_grpc) as client, pytest.raises(InferenceServerException, match="UNIMPLEMENTED"):
        client.infer("ernie", [text])
    for more in ({"n": 2}, {"stream": True, "max_tokens": 200}):  # so many that they do not come in one piece
        answer = httpx.post(f"{url}/generate", json={"text_input": "hi", "max_tokens": 3, "ignore_eos": True, **more}, timeout=30)
        assert list(answer.json()) == ["error"] and "use generate stream" in answer.json()["error"], more
    answer = httpx.post(f"{url}/generate_stream", json={"text_input": "hi", "max_tokens": 3, "n": 2}, timeout=30)
    answers = [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line]
    assert sorted(each["index"] for each in answers) == [0, 1], "without `stream`, each is one response"


def test_the_input_goes_before_the_field(server: RunningServer) -> None:
    sampling = {**GREEDY, "max_tokens": 2}
    assert len(Stream(server.triton_grpc, text_input="hi", max_tokens=4, sampling_parameters=sampling).answer()[0]["ids"]) == 4


def test_many_refusals_do_no_harm(server: RunningServer) -> None:
    """With the metadata that asks for gRPC status codes, tritonserver 2.51 would die of these."""
    body = {"messages": [{"role": "user", "content": "hi"}], "temperature": -1}
    with httpx.Client(timeout=30) as client:
        for _ in range(300):
            assert client.post(f"{server.openai_url}/v1/chat/completions", json=body).status_code == 400
    assert httpx.get(f"{server.openai_url}/health", timeout=10).status_code == 200


def test_a_large_http_body_is_refused_and_the_server_lives(server: RunningServer) -> None:
    for megabytes in (5, 20):
        body = {"text_input": "x" * (megabytes * 1_000_000)}
        answer = httpx.post(f"{server.triton_url}/v2/models/ernie/generate", json=body, timeout=60)
        assert answer.status_code == 400 and "4096" in answer.json()["error"]


def test_after_all_refusals_nothing_is_held(server: RunningServer) -> None:
    wait_until_idle(server)


def test_outputs_asked_for_by_name_come_and_no_others(server: RunningServer) -> None:
    names = ("text_output", "finish_reason", "reasoning_output", "tool_calls", "error")
    stream = Stream(server.triton_grpc, text_input="hello", sampling_parameters={"max_tokens": 5, "ignore_eos": True}, outputs=names)
    final, finish = False, ""
    while not final:
        outputs, final = stream.next()
        assert set(outputs) == set(names), "also those that say nothing"
        finish = outputs["finish_reason"]
    stream.client.stop_stream()
    assert finish == "length"
