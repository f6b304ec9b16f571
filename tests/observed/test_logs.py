"""The log of a server in JSON: every line an object, one line for each request, and of prompts no more than was allowed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import httpx

from ernie_backend.cli.background import RunningServer
from tests.observed.conftest import MAX_LOG_LEN, chat


def lines(server: RunningServer) -> list[dict[str, Any]]:
    return [json.loads(line) for line in list(server.log)]


def wait_for_line(server: RunningServer, fits: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    deadline = time.monotonic() + 10
    while True:
        found = [line for line in lines(server) if fits(line)]
        if found:
            assert len(found) == 1, found
            return found[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def access_line(server: RunningServer, request_id: str) -> dict[str, Any]:
    return wait_for_line(server, lambda line: line.get("request_id") == request_id and "route" in line)


def test_every_line_is_an_object_with_the_same_beginning(server: RunningServer) -> None:
    found = lines(server)
    assert any(line["source"] == "serve" and line["message"].startswith("Starting tritonserver") for line in found)
    assert all(list(line)[:4] == ["time", "level", "source", "message"] for line in found)


def test_one_line_for_each_request(client: httpx.Client, server: RunningServer) -> None:
    answer = client.post("/v1/chat/completions", json=chat("How are you? " * 20))
    line = access_line(server, answer.json()["id"])
    usage = answer.json()["usage"]
    assert answer.headers["x-request-id"] in line["request_id"]
    assert (line["source"], line["route"], line["status"], line["stream"]) == ("frontend", "/v1/chat/completions", 200, False)
    assert (line["prompt_tokens"], line["completion_tokens"]) == (usage["prompt_tokens"], usage["completion_tokens"])
    assert 0 < line["first_byte_ms"] <= line["duration_ms"]
    assert len(line["prompt"]) == MAX_LOG_LEN and line["prompt"].startswith('{"messages":[{"role":"user","content":"How are')


def test_a_stream_a_refusal_and_an_unknown_path(client: httpx.Client, server: RunningServer) -> None:
    client.post("/v1/chat/completions", json=chat(stream=True, request_id="a-stream")).raise_for_status()
    assert access_line(server, "chatcmpl-a-stream")["completion_tokens"] == 8
    refused = client.post("/v1/chat/completions", json=chat(temperature="hot"))
    line = access_line(server, refused.headers["x-request-id"])
    assert (line["status"], line["completion_tokens"]) == (400, 0)
    unknown = client.get("/v1/nothing%0a{")
    line = access_line(server, unknown.headers["x-request-id"])
    assert (line["status"], line["route"]) == (404, "unknown")
    nobody = httpx.post(f"{server.openai_url}/v1/chat/completions", json=chat())
    assert access_line(server, nobody.headers["x-request-id"])["status"] == nobody.status_code == 401


def test_a_client_that_hangs_up(client: httpx.Client, server: RunningServer) -> None:
    body = chat(stream=True, max_tokens=4000, request_id="hangs-up")
    with client.stream("POST", "/v1/chat/completions", json=body) as response:
        next(response.iter_lines())
    assert access_line(server, "chatcmpl-hangs-up")["hung_up"] is True


def test_health_and_metrics_make_no_lines(client: httpx.Client, server: RunningServer) -> None:
    ids = [client.get(path).headers["x-request-id"] for path in ("/health", "/metrics")]
    client.get("/v1/models")
    wait_for_line(server, lambda line: line.get("route") == "/v1/models" and line.get("request_id") not in ids)
    assert not [line for line in lines(server) if line.get("request_id") in ids]
