"""The tutorial's text requests, unchanged but for the port."""

from __future__ import annotations

import json
import subprocess

import openai
import pytest
import requests

from ernie_backend.cli.background import RunningServer
from tests.e2e.observe import metric


def test_the_first_curl(server: RunningServer) -> None:
    command = f"""curl -sS -X POST "{server.openai_url}/v1/chat/completions" \
        -H "Content-Type: application/json" \
        -d '{{"messages": [{{"role": "user", "content": "Hello, please introduce yourself"}}], "max_tokens": 40}}'"""
    answer = json.loads(subprocess.run(["bash", "-c", command], capture_output=True, check=True, timeout=60).stdout)
    (choice,) = answer["choices"]
    assert choice["message"]["role"] == "assistant" and choice["message"]["content"]
    assert choice["finish_reason"] in ("stop", "length")
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] and usage["completion_tokens"] <= 40


@pytest.mark.parametrize("content", ["Hello, please introduce yourself", "把李白的静夜思改写为现代诗"])
def test_the_openai_client_streams(server: RunningServer, content: str) -> None:
    client = openai.Client(base_url=f"{server.openai_url}/v1", api_key="null")
    response = client.chat.completions.create(
        model="null",
        messages=[{"role": "system", "content": "I'm a helpful AI assistant."}, {"role": "user", "content": content}],
        stream=True,
        max_tokens=2048,
        temperature=0.7,
        top_p=0.9,
        frequency_penalty=0.5,
        presence_penalty=0.3,
        stop=["。", "vo"],
    )
    text, finish = "", None
    for chunk in response:
        text += chunk.choices[0].delta.content or ""
        finish = chunk.choices[0].finish_reason or finish
    assert text and "vo" not in text and "。" not in text
    assert finish == "stop", "a random model says 'vo' long before 2048 tokens"


def test_requests_reads_data_lines(server: RunningServer) -> None:
    body = {"messages": [{"role": "user", "content": "Hello"}], "stream": True, "max_tokens": 12, "temperature": 0}
    streamed, done = "", False
    with requests.post(f"{server.openai_url}/v1/chat/completions", json=body, stream=True, timeout=60) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        for line in response.iter_lines():
            if not line:
                continue
            data = line.decode().removeprefix("data: ")
            if data == "[DONE]":
                done = True
                break
            streamed += json.loads(data)["choices"][0]["delta"].get("content") or ""
    whole = requests.post(f"{server.openai_url}/v1/chat/completions", json={**body, "stream": False}, timeout=60).json()
    assert done and streamed == whole["choices"][0]["message"]["content"]


def test_completions_stream(server: RunningServer) -> None:
    client = openai.Client(base_url=f"{server.openai_url}/v1", api_key="null")
    text = ""
    for chunk in client.completions.create(
        model="null", prompt="Where is the capital of China?", stream=True, max_tokens=16, temperature=0
    ):
        text += chunk.choices[0].text
    whole = client.completions.create(model="default", prompt="Where is the capital of China?", max_tokens=16, temperature=0)
    assert text == whole.choices[0].text and whole.usage is not None and whole.usage.completion_tokens == 16


def test_models_health_and_metrics(server: RunningServer) -> None:
    client = openai.Client(base_url=f"{server.openai_url}/v1", api_key="null")
    (model,) = client.models.list().data
    assert model.id == "ernie-small" and model.max_model_len == 4096  # type: ignore[attr-defined]
    assert requests.get(f"{server.openai_url}/health", timeout=10).status_code == 200
    assert requests.get(f"{server.openai_url}/ping", timeout=10).status_code == 200
    metric(server, "ernie_kv_blocks_used")  # is there some seconds after the start
    assert "ernie_kv_blocks_used" in requests.get(f"{server.openai_url}/metrics", timeout=10).text


def test_many_choices_prompts_and_ids(server: RunningServer) -> None:
    body = {"prompt": ["one", "two"], "n": 2, "max_tokens": 6, "temperature": 0.8, "seed": 5, "return_token_ids": True, "logprobs": 2}
    answer = requests.post(f"{server.openai_url}/v1/completions", json=body, timeout=60).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert answer["choices"][0]["prompt_token_ids"] == answer["choices"][1]["prompt_token_ids"] != answer["choices"][2]["prompt_token_ids"]
    for choice in answer["choices"]:
        assert len(choice["completion_token_ids"]) == 6 == len(choice["logprobs"]["token_logprobs"])
    again = requests.post(f"{server.openai_url}/v1/completions", json=body, timeout=60).json()
    assert [c["text"] for c in again["choices"]] == [c["text"] for c in answer["choices"]], "same seed, same answers"
    prompt_ids = answer["choices"][0]["prompt_token_ids"]
    by_ids = requests.post(f"{server.openai_url}/v1/completions", json={**body, "prompt": prompt_ids}, timeout=60).json()
    assert by_ids["choices"][0]["text"] == answer["choices"][0]["text"], "a prompt of ids equals its text"
