"""SIGTERM under load: streams end properly within the grace time, exit code 0, nothing left."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
import time
from collections.abc import Callable
from itertools import chain, repeat
from pathlib import Path

import httpx
import pytest
import tritonclient.grpc as grpc_client
from tritonclient.utils import InferenceServerException

from ernie_backend.cli.__main__ import main
from ernie_backend.cli.background import RunningServer
from tests.e2e.kserve import Stream
from tests.e2e.server import running_server
from tests.e2e.test_media import SIZES
from tests.media.hostile_server import PNG, HostileServer


def nothing_new_is_taken(server: RunningServer) -> None:
    """While a request goes on, both faces say that they are not ready, and refuse with words."""
    with grpc_client.InferenceServerClient(server.triton_grpc) as client:
        assert httpx.get(f"{server.triton_url}/v2/health/ready", timeout=20).status_code != 200 and not client.is_server_ready()
        assert not client.is_model_ready("ernie")
    refused = httpx.post(f"{server.openai_url}/v1/completions", json={"prompt": "late", "max_tokens": 3}, timeout=60)
    assert refused.status_code == 503 and int(refused.headers["retry-after"]) >= 1, refused.text
    assert refused.json()["error"]["code"] == "unavailable" and "shutting down" in refused.json()["error"]["message"]
    assert not any("not available" in line for line in server.log), "it is no fault"
    with pytest.raises(InferenceServerException):
        Stream(server.triton_grpc, text_input="late").next()
    assert httpx.get(f"{server.triton_url}/v2/health/live", timeout=20).status_code == 200


def wait(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def answers_until_gone(address: str, told: list[str]) -> None:
    """Ask until nobody is there; `told`: the answers, in order, that are not like the one before."""
    with httpx.Client(timeout=20) as client, contextlib.suppress(httpx.ConnectError):
        while True:
            with contextlib.suppress(httpx.ReadError, httpx.RemoteProtocolError):  # its idle connections are closed in the end
                status = str(client.get(address, headers={"connection": "close"}).status_code)
                if told[-1:] != [status]:
                    told.append(status)


def test_whoever_is_not_ready_stays_so_to_the_end(small_model: Path) -> None:
    """Also when the last answer has left. (Of /v2/health/ready this cannot be said: what has been unloaded counts no more for Triton.)"""
    with running_server(small_model, max_model_len=65536, shutdown_grace_seconds=120) as server:
        paths = (f"{server.openai_url}/health", f"{server.openai_url}/ping", f"{server.triton_url}/v2/models/ernie/ready")
        told: list[list[str]] = [[] for _ in paths]
        sampling = {"temperature": 0, "ignore_eos": True}
        stream = Stream(server.triton_grpc, text_input="the last", max_tokens=65000, sampling_parameters=sampling)
        stream.next()
        threads = [threading.Thread(target=answers_until_gone, args=each) for each in zip(paths, told, strict=True)]
        for thread in threads:
            thread.start()
        wait(lambda: all(told), "all are asked")
        server.process.send_signal(signal.SIGTERM)
        wait(lambda: all(len(statuses) > 1 for statuses in told), "all turn")
        nothing_new_is_taken(server)
        stream.cancel()
        for thread in threads:
            thread.join(60)
        for statuses in told:
            assert statuses[0] == "200" and "200" not in statuses[1:], told


@pytest.mark.parametrize(("max_tokens", "grace"), [(200, 60), (3900, 4)])
def test_sigterm_under_load(small_model: Path, max_tokens: int, grace: int) -> None:
    endings: dict[int, str] = {}
    begun = threading.Semaphore(0)

    def over_http(number: int, url: str) -> None:
        body = {"prompt": f"user {number}", "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True, "stream": True}
        with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=120) as response:
            begun.release()
            lines = [line for line in response.iter_lines() if line]
        endings[number] = "done" if lines[-1] == "data: [DONE]" else "error" if '"error"' in lines[-1] else f"cut: {lines[-1]}"
        if endings[number] == "error":
            assert json.loads(lines[-1][6:])["error"]["code"] == "unavailable"

    def over_grpc(number: int, address: str) -> None:
        sampling = {"temperature": 0, "ignore_eos": True}
        stream = Stream(address, text_input=f"user {number}", max_tokens=max_tokens, sampling_parameters=sampling)
        while stream.responses.empty():
            time.sleep(0.01)
        begun.release()
        answer = stream.answer()[0]
        endings[number] = "done" if answer["finish"] == "length" else "error" if answer["finish"] == "abort" else answer["finish"]

    with running_server(small_model, max_model_len=4096, max_num_seqs=16, shutdown_grace_seconds=grace) as server:
        threads = [threading.Thread(target=over_http, args=(i, server.openai_url)) for i in range(8)]
        threads += [threading.Thread(target=over_grpc, args=(i, server.triton_grpc)) for i in range(8, 16)]
        for thread in threads:
            thread.start()
        assert all(begun.acquire(timeout=60) for _ in threads)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(grace + 60) == 0
        for thread in threads:
            thread.join(10)
    assert len(endings) == 16 and set(endings.values()) <= {"done", "error"}, endings
    if grace == 60:
        assert set(endings.values()) == {"done"}, endings
    else:
        assert "error" in endings.values(), "the long ones are told"


def test_a_slow_picture_does_not_hold_up_the_end(tmp_path: Path) -> None:
    """Its request cannot run any more: it hears so within a second or two, and is not waited for."""
    folder = tmp_path / "seeing"
    assert main(["random-checkpoint", "--like", "ERNIE-4.5-VL-28B-A3B", "--dtype", "float32", "--out", str(folder), "--set", *SIZES]) == 0
    head = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: 100000\r\n\r\n"
    host = HostileServer({"/slow.png": lambda connection, server: server.drip(connection, chain([head + PNG[:8]], repeat(b"x")))})
    content = [{"type": "image_url", "image_url": {"url": host.url("/slow.png")}}]
    answers: dict[bool, httpx.Response] = {}

    def ask(url: str, *, stream: bool) -> None:
        body = {"messages": [{"role": "user", "content": content}], "stream": stream}
        answers[stream] = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)

    with running_server(folder, max_model_len=2048, allow_private_media="true", timeout_graceful_shutdown=60) as server:
        threads = [threading.Thread(target=ask, args=(server.openai_url,), kwargs={"stream": stream}) for stream in (False, True)]
        for thread in threads:
            thread.start()
        while len(host.requests) < len(threads):
            time.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(30)  # the picture would take half a minute of its own, the grace time is longer
        host.close()
    for answer in answers.values():
        assert answer.status_code == 503 and "shutting down" in answer.json()["error"]["message"], answer.text
    assert len(answers) == 2
