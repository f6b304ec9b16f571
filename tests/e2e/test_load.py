"""Cancelling from every side, deadlines and a full queue, against a real server whose steps take long enough to be counted."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from ernie_backend.cli.background import RunningServer
from tests.e2e.clock import clock_server
from tests.e2e.kserve import Stream
from tests.e2e.observe import IDLE_GAUGES, metric, wait_for_metric

STEP_SECONDS = 0.2
SEATS, QUEUE, WAIT_SECONDS = 2, 3, 8
ENDLESS: dict[str, Any] = {"max_tokens": 900, "temperature": 0}
KEYS = {"Authorization": "Bearer one"}

AFTER_A_WRITE = 2
"""tritonserver's HTTP face learns of a closed socket by writing to it: the first write is taken, the next one fails."""


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> Iterator[RunningServer]:
    """The model is a clock whose steps take far longer than the news that a client has gone, also while others compute beside it.
    (test_many_streams.py has clients leave a real one.)"""
    flags: dict[str, object] = {
        "max_model_len": 1024,
        "max_num_seqs": SEATS,
        "max_queued_requests": QUEUE,
        "max_waiting_time": WAIT_SECONDS,
    }
    flags |= {"workers": 2, "max_concurrency": 8, "api_key": ("one", "two")}
    with clock_server(tmp_path_factory.mktemp("slow"), small_model, STEP_SECONDS, **flags) as clock:
        yield clock.server


@pytest.fixture
def client(slow: RunningServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{slow.openai_url}/v1", api_key="one", max_retries=0)


def settled_tokens(server: RunningServer, at_least: float = 0, seconds: float = 30.0) -> float:
    """Generated tokens, once nothing runs or is held any more and nothing has changed for longer than metrics take to be published."""
    last, since, deadline = -1.0, 0.0, time.monotonic() + seconds
    while True:
        assert time.monotonic() < deadline, f"not idle: {last} tokens"
        now = metric(server, "ernie_generation_tokens_total")
        if now != last or now < at_least or any(metric(server, name) for name in IDLE_GAUGES):
            last, since = now, time.monotonic()
        elif time.monotonic() - since > 2.0:
            return now
        time.sleep(0.1)


@contextmanager
def counted(server: RunningServer, received: Callable[[], int], allowed: int = 0) -> Iterator[None]:
    """At most two steps were computed after the one that was under way when the client left, and nothing is left behind."""
    before = settled_tokens(server)
    yield
    generated = settled_tokens(server, before + received()) - before
    assert received() <= generated <= received() + 3 + allowed, f"{generated} tokens for {received()} that were read"


def test_an_openai_client_closes_its_stream(slow: RunningServer, client: openai.OpenAI) -> None:
    read = 0
    with counted(slow, lambda: read):
        usage = {"include_usage": True, "continuous_usage_stats": True}
        stream = client.completions.create(
            model="x", prompt="leave", stream=True, extra_body={"ignore_eos": True, "stream_options": usage}, **ENDLESS
        )
        for chunk in stream:
            assert chunk.usage is not None
            read = chunk.usage.completion_tokens
            if read >= 5:
                stream.close()
                break


def test_a_client_process_is_killed(slow: RunningServer) -> None:
    read = 0
    program = f"""
import httpx, json
body = {{"prompt": "die", "stream": True, "ignore_eos": True, **{ENDLESS!r}, "stream_options": {{"continuous_usage_stats": True}}}}
with httpx.stream("POST", "{slow.openai_url}/v1/completions", json=body, headers={KEYS!r}, timeout=60) as response:
    for line in response.iter_lines():
        if line.startswith("data: {{"):
            print(json.loads(line[6:])["usage"]["completion_tokens"], flush=True)
"""
    with counted(slow, lambda: read):
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            read = int(line)
            if read >= 5:
                process.kill()
                break
        process.wait()


@pytest.mark.parametrize("n", [1, 2])
def test_a_tritonclient_cancels_its_stream(slow: RunningServer, n: int) -> None:
    read = [0]
    with counted(slow, lambda: read[0], allowed=3 * (n - 1)):
        stream = Stream(slow.triton_grpc, text_input="leave", sampling_parameters={**ENDLESS, "ignore_eos": True, "n": n})
        while read[0] < 5 * n:
            outputs, _ = stream.next()
            read[0] += len(outputs["token_ids"])
        stream.cancel()


def test_generate_stream_is_closed(slow: RunningServer) -> None:
    read = [0]
    body = {"text_input": "leave", "stream": True, "ignore_eos": True, **ENDLESS}
    with (
        counted(slow, lambda: read[0], allowed=AFTER_A_WRITE),
        httpx.stream("POST", f"{slow.triton_url}/v2/models/ernie/generate_stream", json=body, timeout=60) as response,
    ):
        for line in response.iter_lines():
            if line.startswith("data: {"):
                read[0] += len(json.loads(line[6:])["token_ids"]) if isinstance(json.loads(line[6:])["token_ids"], list) else 1
            if read[0] >= 5:
                break


def test_a_client_that_never_reads_and_goes(slow: RunningServer) -> None:
    before = settled_tokens(slow)
    body = json.dumps({"prompt": "x", "stream": True, "ignore_eos": True, **ENDLESS}).encode()
    host, port = slow.openai_url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer one\r\ncontent-length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        wait_for_metric(slow, "ernie_sequences_running", 1)
    assert settled_tokens(slow, before + 1) - before < ENDLESS["max_tokens"] / 2


@contextmanager
def all_seats_taken(server: RunningServer) -> Iterator[None]:
    settled_tokens(server)
    running = [Stream(server.triton_grpc, text_input=f"run {i}", sampling_parameters={**ENDLESS, "ignore_eos": True}) for i in range(SEATS)]
    try:
        for stream in running:
            stream.next()
        yield
    finally:
        for stream in running:
            stream.cancel()
        settled_tokens(server)


def post(server: RunningServer, key: str = "one", **fields: Any) -> httpx.Response:
    body = {"prompt": "hi", "max_tokens": 2, "ignore_eos": True, **fields}
    headers = {"Authorization": f"Bearer {key}", **fields.pop("headers", {})}
    body.pop("headers", None)
    return httpx.post(f"{server.openai_url}/v1/completions", json=body, headers=headers, timeout=60)


def test_a_full_queue_and_the_longest_wait(slow: RunningServer) -> None:
    with all_seats_taken(slow):
        answers: list[httpx.Response] = []
        waiting = [threading.Thread(target=lambda: answers.append(post(slow))) for _ in range(QUEUE)]
        for thread in waiting:
            thread.start()
        wait_for_metric(slow, "ernie_sequences_waiting", QUEUE, seconds=WAIT_SECONDS)
        refused = post(slow)
        assert refused.status_code == 429 and 1 <= int(refused.headers["retry-after"]) <= 60, refused.text
        assert refused.json()["error"]["code"] == "overloaded"
        for thread in waiting:
            thread.join(30)
        assert [(a.status_code, a.json()["error"]["code"]) for a in answers] == [(408, "timeout")] * QUEUE
        assert metric(slow, "ernie_sequences_running") == SEATS


def test_a_queued_request_whose_client_leaves_is_never_computed(slow: RunningServer) -> None:
    with all_seats_taken(slow):
        prompts = metric(slow, "ernie_sequences_waiting")
        queued = Stream(slow.triton_grpc, text_input="queued", sampling_parameters=ENDLESS)
        wait_for_metric(slow, "ernie_sequences_waiting", prompts + 1, seconds=WAIT_SECONDS)
        queued.cancel()
        wait_for_metric(slow, "ernie_sequences_waiting", prompts, seconds=WAIT_SECONDS - 1)


def test_more_answers_than_ever_fit_are_a_400(slow: RunningServer) -> None:
    refused = post(slow, prompt=[f"p{i}" for i in range(9)])
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "prompt"
    assert "at most 8 answers at once" in refused.json()["error"]["message"]
    assert post(slow, n=9).json()["error"]["param"] == "n"


def test_a_deadline_ends_a_whole_answer(slow: RunningServer, client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        client.completions.create(
            model="x", prompt="long", extra_body={"ignore_eos": True}, extra_headers={"X-Request-Timeout": "1.5"}, **ENDLESS
        )
    assert caught.value.status_code == 408 and caught.value.code == "timeout"
    settled_tokens(slow)
    assert post(slow, headers={"X-Request-Timeout": "soon"}).json()["error"]["param"] == "X-Request-Timeout"
    assert post(slow, headers={"X-Request-Timeout": "60"}).status_code == 200


def test_a_deadline_ends_a_stream_with_an_error_event(slow: RunningServer) -> None:
    body = {"prompt": "long", "stream": True, "ignore_eos": True, **ENDLESS}
    headers = {**KEYS, "X-Request-Timeout": "3"}
    with httpx.stream("POST", f"{slow.openai_url}/v1/completions", json=body, headers=headers, timeout=60) as response:
        lines = [line for line in response.iter_lines() if line]
    assert response.status_code == 200 and len(lines) > 1
    assert json.loads(lines[-1][6:])["error"]["code"] == "timeout"
    settled_tokens(slow)


def test_kserve_timeout_is_in_microseconds(slow: RunningServer) -> None:
    stream = Stream(
        slow.triton_grpc, text_input="long", sampling_parameters={**ENDLESS, "ignore_eos": True}, parameters={"timeout": 3_000_000}
    )
    outputs, final = stream.next()
    tokens = 0
    while not final:
        tokens += len(outputs["token_ids"])
        outputs, final = stream.next()
    assert outputs["finish_reason"] == "error" and "code: timeout" in outputs["error"] and 0 < tokens < 900
    body = {"text_input": "x", "stream": False, "ignore_eos": True, **ENDLESS, "timeout": 1_000_000, "priority": 1}
    answer = httpx.post(f"{slow.triton_url}/v2/models/ernie/generate", json=body, timeout=60)
    assert answer.json()["finish_reason"] == "error" and "code: timeout" in answer.json()["error"]
    answer = httpx.post(f"{slow.triton_url}/v2/models/ernie/generate", json={**body, "priority": 7}, timeout=60)
    assert answer.status_code == 400 and "priority" in answer.json()["error"]


def abort(server: RunningServer, key: str, **body: Any) -> Any:
    """Each call on a connection of its own, so that now this worker is asked, now that one."""
    answer = httpx.post(f"{server.openai_url}/v1/abort_requests", json=body, headers={"Authorization": f"Bearer {key}"}, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.json()["result"]


@pytest.mark.parametrize("everything", [False, True])
def test_answers_are_aborted_by_id_and_only_by_their_own_key(slow: RunningServer, client: openai.OpenAI, everything: bool) -> None:
    read, asked = 0, {}
    with counted(slow, lambda: read):
        stream = client.chat.completions.create(
            model="x",
            messages=[{"role": "user", "content": "x"}],
            stream=True,
            extra_body={"ignore_eos": True, "return_token_ids": True},
            **ENDLESS,
        )
        with pytest.raises(openai.APIError) as caught:
            for chunk in stream:
                read += len(getattr(chunk.choices[0], "completion_token_ids", None) or ())
                if read >= 3 and not asked:
                    assert abort(slow, "two", req_ids=[chunk.id]) == {"aborted": [], "not_found": [chunk.id]}
                    assert abort(slow, "two", abort_all=True) == {"aborted": [], "not_found": []}
                    asked = {"abort_all": True} if everything else {"req_ids": [chunk.id, "chatcmpl-nobody"]}
                    assert abort(slow, "one", **asked) == {
                        "aborted": [chunk.id],
                        "not_found": [] if everything else ["chatcmpl-nobody"],
                    }
        assert caught.value.code == "request_aborted"


def test_a_service_tier_is_told(client: openai.OpenAI, slow: RunningServer) -> None:
    answer = client.chat.completions.create(
        model="x", messages=[{"role": "user", "content": "x"}], max_tokens=2, service_tier="flex", extra_body={"ignore_eos": True}
    )
    assert answer.service_tier == "flex"
