"""`python -m ernie_openai` as a process: flags, readiness, and its end under SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from ernie_backend.cli.background import free_ports
from ernie_backend.cli.processes import children_of, is_running
from ernie_openai.server import listen

from .fake_triton import FakeTriton, SeenRequest, response, serving
from .fakes import CHAT, HELLO, sse

START_TIMEOUT_SECONDS = 60


@asynccontextmanager
async def front_end(address: str, *flags: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, httpx.AsyncClient]]:
    (port,) = free_ports(1)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ernie_openai", "--host", "127.0.0.1", "--port", str(port), "--triton-grpc", address, *flags
    )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as client:
            for _ in range(START_TIMEOUT_SECONDS * 10):
                assert process.returncode is None, "it ended while starting"
                try:
                    if (await client.get("/health")).status_code == 200:
                        break
                except httpx.TransportError:
                    await asyncio.sleep(0.1)
            yield process, client
    finally:
        while process.returncode is None:  # killed, it would leave its workers behind; a second signal ends answers under way
            process.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), 3)


async def one_word(_: SeenRequest) -> AsyncIterator[Any]:
    yield response(True, text_output="0 ", token_ids=(0,), finish_reason="stop")


@pytest.mark.parametrize("workers", [1, 2])
async def test_sigterm_lets_streams_end_and_exits_with_0(workers: int) -> None:
    """And what is new is refused with words until then, whichever worker takes the connection."""
    release = asyncio.Event()

    async def twenty_words(_: SeenRequest) -> AsyncIterator[Any]:
        for i in range(20):
            yield response(text_output=f"{i} ", token_ids=(i,))
            if i == 1:
                await release.wait()
        yield response(True, finish_reason="stop")

    async with serving(FakeTriton(twenty_words)) as address, front_end(address, "--workers", str(workers)) as (process, client):
        async with client.stream("POST", CHAT, json=HELLO | {"stream": True}) as answer:
            lines = answer.aiter_lines()
            text = await anext(lines) + "\n"
            process.send_signal(signal.SIGTERM)
            while (health := await _once(client, "GET", "/health")).status_code == 200:
                await asyncio.sleep(0.05)
            for refused in (health, *[await _once(client, "POST", CHAT) for _ in range(8)]):
                assert refused.status_code == 503 and int(refused.headers["retry-after"]) >= 1, refused.text
                assert "shutting down" in refused.json()["error"]["message"]
            assert (await _once(client, "GET", "/v1/models")).status_code == 200
            release.set()
            async for line in lines:
                text += line + "\n"
        assert sse(text)[-1] == "[DONE]"
        assert "".join(c["choices"][0]["delta"]["content"] for c in sse(text)[:-1]) == "".join(f"{i} " for i in range(20))
        assert await asyncio.wait_for(process.wait(), 25) == 0


async def _once(client: httpx.AsyncClient, method: str, path: str) -> httpx.Response:
    """On a connection of its own; another one if the first was taken by a worker that just ended."""
    while True:
        async with httpx.AsyncClient(base_url=client.base_url, timeout=10, trust_env=False) as fresh:
            with contextlib.suppress(httpx.RemoteProtocolError, httpx.ReadError):
                return await fresh.request(method, path, json=HELLO if method == "POST" else None)


async def test_what_outlives_the_grace_time_is_told_so(tmp_path: Path) -> None:
    async def endless(_: SeenRequest) -> AsyncIterator[Any]:
        while True:
            yield response(text_output="x", token_ids=(1,))
            await asyncio.sleep(0.05)

    triton = FakeTriton(endless)
    names = ("--served-model-name", "a", "b", "--api-key", "k1", "--api-key", "k2", "--max-model-len", "77")
    outage = tmp_path / "outage"
    async with (
        serving(triton) as address,
        front_end(address, "--shutdown-grace-seconds", "1", "--outage-file", str(outage), *names) as (process, client),
    ):
        client.headers["authorization"] = "Bearer k2"
        cards = (await client.get("/v1/models")).json()["data"]
        assert [(card["id"], card["max_model_len"]) for card in cards] == [("a", 77), ("b", 77)]
        outage.write_text("The server is being restarted.")
        refused = await client.post(CHAT, json=HELLO)
        assert refused.status_code == 503 and "is being restarted" in refused.text and refused.headers["retry-after"]
        outage.unlink()
        async with client.stream("POST", CHAT, json=HELLO | {"stream": True}) as answer:
            received = answer.aiter_lines()
            lines = [await anext(received)]
            process.send_signal(signal.SIGTERM)
            lines += [line async for line in received if line]
        assert "shutting down" in json.loads(lines[-1].removeprefix("data: "))["error"]["message"]
        assert await asyncio.wait_for(process.wait(), 25) == 0
        await asyncio.wait_for(triton.cancelled.wait(), 60)


async def test_a_taken_port_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "ernie_openai",
            "--host",
            "127.0.0.1",
            "--port",
            str(taken.getsockname()[1]),
            stderr=asyncio.subprocess.PIPE,
        )
        _, said = await process.communicate()
    assert process.returncode and b"ddress already in use" in said


async def test_what_is_no_socket_cannot_be_inherited() -> None:
    command = (sys.executable, "-m", "ernie_openai", "--listening-socket", "987654")
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    _, said = await process.communicate()
    assert process.returncode == 2 and b"--listening-socket 987654 is no socket of this process" in said


def test_small_pieces_leave_at_once() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listen(listening)
        with socket.create_connection(listening.getsockname()), listening.accept()[0] as connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_workers_do_not_outlive_their_parent() -> None:
    """They would keep the port."""
    async with serving(FakeTriton(one_word)) as address, front_end(address, "--workers", "2") as (process, _):
        workers = children_of(process.pid)
        assert len(workers) >= 2
        process.kill()
        await process.wait()
        while any(map(is_running, workers)):
            await asyncio.sleep(0.05)
