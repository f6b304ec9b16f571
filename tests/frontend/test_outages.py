"""When Triton is not there: what its client says, whether it logs it, and how soon it finds Triton again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from ernie_backend.errors import UnavailableError
from ernie_openai.triton_client import TritonClient

from .fake_triton import FakeTriton, SeenRequest, error_message, logged, response, serving
from .test_triton_client import collect, replies


async def test_a_server_that_is_not_there() -> None:
    async with serving(FakeTriton(replies())) as address:
        pass
    client = TritonClient(address, f"http://{address}/metrics")
    with pytest.raises(UnavailableError):
        await collect(client)
    with pytest.raises(UnavailableError):
        await client.metrics()
    assert not await client.is_ready()
    await client.close()


async def test_a_server_that_comes_back_is_found_again() -> None:
    triton = FakeTriton(replies(response(True, finish_reason="stop")))
    async with serving(triton) as address:
        client = TritonClient(address, "http://127.0.0.1:1/metrics")
        assert len(await collect(client)) == 1
    with pytest.raises(UnavailableError):
        await collect(client)
    async with serving(triton, address):
        while not await client.is_ready():
            await asyncio.sleep(0.1)
        assert len(await collect(client)) == 1
        await client.close()


async def test_a_server_that_comes_back_is_asked_at_once() -> None:
    """However often it was not there: gRPC waits longer after each failed try, and meanwhile refuses without asking."""
    triton = FakeTriton(replies(response(True, finish_reason="stop")))
    async with serving(triton) as address:
        client = TritonClient(address, "http://127.0.0.1:1/metrics")
        assert len(await collect(client)) == 1
    asked = await asyncio.gather(*(collect(client) for _ in range(8)), return_exceptions=True)
    assert all(isinstance(each, UnavailableError) for each in asked)
    async with serving(triton, address):
        assert [len(events) for events in await asyncio.gather(*(collect(client) for _ in range(8)))] == [1] * 8
        await client.close()


async def test_an_outage_that_is_known_is_told_and_not_logged_again(caplog: pytest.LogCaptureFixture) -> None:
    outage: str | None = None
    script = replies(error_message("Request for unknown model: 'ernie' is not found"))
    triton = FakeTriton(script)

    async def begin(request: SeenRequest) -> AsyncIterator[Any]:
        nonlocal outage
        outage = "The server is shutting down."
        async for reply in script(request):
            yield reply

    async with serving(triton) as address:
        client = TritonClient(address, "http://127.0.0.1:1/metrics", outage=lambda: outage)
        with pytest.raises(UnavailableError, match="is not available"):
            await collect(client)
        assert [record.levelname for record in logged(caplog)] == ["ERROR"], "nobody else knows of it"
        triton.script = begin
        with pytest.raises(UnavailableError, match="is shutting down"):  # it has begun while the request was on its way
            await collect(client)
        for asked in (collect(client), client.abort(None, None)):
            with pytest.raises(UnavailableError, match="is shutting down"):
                await asked
        assert len(triton.seen) == 2 and len(logged(caplog)) == 1
        await client.close()
