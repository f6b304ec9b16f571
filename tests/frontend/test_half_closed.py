"""Clients that close their half of the connection behind their request (`nc -N`, scripts) are answered like all others.

That those who have gone for good are noticed although it looks the same at first, `test_openai_client.py` sees to.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from ernie_openai.http_protocol import GuardedProtocol

from .fakes import HELLO, FakeClient, sse, words
from .http_server import serving
from .test_attacks import HIDDEN, POST, WAIT_SECONDS, statuses


class Watched(GuardedProtocol):
    """Says when a client has closed its half, and would itself keep the connection for hours."""

    closed: asyncio.Event

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.timeout_keep_alive = 3600

    def eof_received(self) -> bool | None:
        type(self).closed.set()
        return super().eof_received()


@pytest.fixture
def watched() -> type[Watched]:
    Watched.closed = asyncio.Event()
    return Watched


async def ask_and_close(url: str, sent: bytes, first: bytes = b"") -> bytes:
    """What the server says to `sent`, behind which nothing more comes. `first`: close only when that has come."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(sent)
    said = await asyncio.wait_for(reader.readuntil(first), WAIT_SECONDS) if first else b""
    writer.write_eof()
    said += await asyncio.wait_for(reader.read(), WAIT_SECONDS)
    writer.close()
    return said


async def test_a_question_is_answered_and_the_connection_ends(watched: type[Watched]) -> None:
    async with serving(FakeClient(words(["a"])), protocol=watched) as url:
        for method, status in ((b"GET /health", 200), (b"HEAD /health", 200), (b"GET /nope", 404)):
            assert statuses(await ask_and_close(url, method + b" HTTP/1.1\r\nHost: x\r\n\r\n")) == [status]


async def test_an_answer_that_takes_its_time(watched: type[Watched]) -> None:
    async with serving(FakeClient([watched.closed, *words(["late"])]), protocol=watched) as url:
        said = await ask_and_close(url, HIDDEN)
    assert statuses(said) == [100, 200]
    assert json.loads(said[said.rindex(b"\r\n\r\n") :])["choices"][0]["message"]["content"] == "late"


async def test_before_an_answer_in_http_1_0_it_counts_as_gone(watched: type[Watched]) -> None:
    """A proxy whose client has left looks like that, and its request must not run to the end."""
    async with serving(FakeClient([asyncio.Event()]), protocol=watched) as url:
        assert await ask_and_close(url, HIDDEN.replace(b"HTTP/1.1", b"HTTP/1.0")) == b""


async def test_a_stream_goes_on_to_its_end(watched: type[Watched]) -> None:
    body = json.dumps(HELLO | {"stream": True}).encode()
    first, second = words(["early", "late"])
    async with serving(FakeClient([first, watched.closed, second]), protocol=watched) as url:
        said = await ask_and_close(url, POST.replace(b"1.1", b"1.0") + b"Content-Length: %d\r\n\r\n" % len(body) + body, b'early"')
    assert statuses(said) == [200]
    lines = said.partition(b"\r\n\r\n")[2]
    assert lines.count(b"\n\n:\n\n") == 1, "a comment, to see whether somebody is there"
    events = sse(lines.replace(b"\n:\n\n", b"\n").decode())
    assert "".join(event["choices"][0]["delta"]["content"] for event in events[:-1]) == "earlylate" and events[-1] == "[DONE]"


async def test_several_questions_at_once(watched: type[Watched]) -> None:
    client = FakeClient([watched.closed, *words(["first"])], words(["second"]))
    async with serving(client, protocol=watched) as url:
        said = await asyncio.wait_for(ask_and_close(url, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" + HIDDEN), WAIT_SECONDS)
        assert [status for status in statuses(said) if status != 100] == [200, 200] and b"first" in said


@pytest.mark.parametrize("sent", [b"", b"GET /health HTTP/1.1\r\n", POST + b"Content-Length: 100\r\n\r\n{"])
async def test_half_a_question_is_none(sent: bytes) -> None:
    client = FakeClient(words(["a"]))
    async with serving(client) as url:
        assert await ask_and_close(url, sent) == b"" and client.requests == []
