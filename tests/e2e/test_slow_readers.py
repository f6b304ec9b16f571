"""Clients that read slowly or not at all, on both faces of a real server, beside one that reads as it should."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import pytest
from tritonclient.grpc import service_pb2_grpc

from ernie_backend.benchmark.load_client import ensemble_request
from ernie_backend.benchmark.process_usage import usage_of
from tests.e2e.clock import ClockServer
from tests.e2e.observe import metric, wait_until_idle

LONG = 4000
MEMORY_BYTES = 32 * 2**20
"""More than any process may grow by while a client does not read: the answer's responses, and what allocators keep."""


@pytest.fixture(scope="module")
def clock(clock: ClockServer) -> ClockServer:
    neighbour(clock)  # what is allocated once is allocated now
    return clock


class HttpReader:
    """A streaming client with a small receive buffer, which reads when it is told to."""

    def __init__(self, clock: ClockServer, tokens: int) -> None:
        host, port = clock.server.openai_url.removeprefix("http://").split(":")
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.connect((host, int(port)))
        body = json.dumps({"prompt": "slow", "max_tokens": tokens, "stream": True, "ignore_eos": True}).encode()
        head = f"POST /v1/completions HTTP/1.0\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self.socket.sendall(head.encode() + body)
        self.received = b""

    def read(self, count: int) -> bool:
        """At most `count` bytes; False at the end."""
        data = self.socket.recv(count)
        self.received += data
        return bool(data)

    def read_rest(self) -> list[Any]:
        """Every event of the answer, read as fast as they come."""
        self.socket.settimeout(60)
        while self.read(65536):
            pass
        self.socket.close()
        _, _, text = self.received.partition(b"\r\n\r\n")
        lines = [line[6:] for line in text.decode().split("\n\n") if line.startswith("data: ")]
        return [line if line == "[DONE]" else json.loads(line) for line in lines]


class GrpcReader:
    """One stream of its own connection, which reads when it is told to."""

    def __init__(self, clock: ClockServer, tokens: int) -> None:
        self.channel = grpc.insecure_channel(clock.server.triton_grpc, options=[("grpc.use_local_subchannel_pool", 1)])
        stub = service_pb2_grpc.GRPCInferenceServiceStub(self.channel)
        request = ensemble_request(range(1000, 1016), {"max_tokens": tokens, "ignore_eos": True})
        self.call = stub.ModelStreamInfer(iter([request]))

    def read(self) -> list[int] | None:
        """The next response's ids; None at the end."""
        reply = next(self.call, None)
        if reply is None:
            return None
        assert not reply.error_message, reply.error_message
        response = reply.infer_response
        raw = dict(zip((output.name for output in response.outputs), response.raw_output_contents, strict=True))["token_ids"]
        return [int.from_bytes(raw[i : i + 4], "little") for i in range(0, len(raw), 4)]

    def close(self) -> None:
        self.call.cancel()
        self.channel.close()


def neighbour(clock: ClockServer, tokens: int = 500) -> None:
    """Somebody who reads as they should gets everything."""
    body = {"prompt": "quick", "max_tokens": tokens, "stream": True, "ignore_eos": True}
    text = ""
    with httpx.stream("POST", f"{clock.server.openai_url}/v1/completions", json=body, timeout=60) as response:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                text += json.loads(line[6:])["choices"][0]["text"]
    assert text == clock.text(tokens)


@contextlib.contextmanager
def no_process_grows(clock: ClockServer) -> Iterator[None]:
    before = usage_of(clock.server.process.pid)
    yield
    after = usage_of(clock.server.process.pid)
    grown = {name: after[name].resident_bytes - before[name].resident_bytes for name in before}
    assert all(growth < MEMORY_BYTES for growth in grown.values()), grown


def test_http_a_reader_that_never_reads(clock: ClockServer) -> None:
    """Its request is over, and its blocks are free, long before its answer would be; the others do not notice."""
    before = metric(clock.server, "ernie_generation_tokens_total")
    with no_process_grows(clock):
        reader = HttpReader(clock, LONG)
        neighbour(clock)
        wait_until_idle(clock.server, seconds=60)
    made = metric(clock.server, "ernie_generation_tokens_total") - before - 500
    assert made < LONG, "it was ended before its time"
    *events, last = reader.read_rest()
    assert last["error"]["code"] == "slow_reader"
    text = "".join(event["choices"][0]["text"] for event in events)
    assert text and clock.text(LONG).startswith(text), "what was sent before is in order and whole"


def test_http_a_reader_of_1_kilobyte_a_second(clock: ClockServer) -> None:
    """What its connection cannot hold waits and is joined."""
    reader = HttpReader(clock, 1600)
    neighbours = threading.Thread(target=neighbour, args=(clock,))
    neighbours.start()
    for _ in range(6):
        reader.read(512)
        time.sleep(0.5)
    neighbours.join(60)
    wait_until_idle(clock.server, seconds=60)
    events = reader.read_rest()
    assert events[-1] == "[DONE]", events[-1]
    texts = [event["choices"][0]["text"] for event in events[:-1]]
    assert "".join(texts) == clock.text(1600)
    assert max(map(len, texts)) > 5 * max(map(len, clock.token_texts)), "larger pieces"


def test_grpc_a_reader_that_never_reads(clock: ClockServer) -> None:
    """Triton says nothing of it. The engine is done at its own pace, and what waits in Triton is that one answer and no more."""
    with no_process_grows(clock):
        reader = GrpcReader(clock, LONG)
        neighbour(clock)
        wait_until_idle(clock.server, seconds=60)
        reader.close()
    neighbour(clock)


def test_grpc_a_slow_reader(clock: ClockServer) -> None:
    reader = GrpcReader(clock, 2000)
    neighbours = threading.Thread(target=neighbour, args=(clock,))
    neighbours.start()
    ids: list[int] = []
    for _ in range(6):
        ids += reader.read() or []
        time.sleep(0.5)
    neighbours.join(60)
    while (more := reader.read()) is not None:
        ids += more
    reader.close()
    assert ids == [clock.token_ids[i % len(clock.token_ids)] for i in range(2000)]
    wait_until_idle(clock.server, seconds=60)
