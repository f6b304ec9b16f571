"""Bytes that no proper client sends, over sockets: each gets its status and its end, and nothing hidden behind it is ever heard."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from ernie_openai.app import create_app
from ernie_openai.http_protocol import MAX_CHUNKS, GuardedProtocol
from ernie_openai.middleware import MAX_HEADERS, MAX_TARGET_BYTES, LimitsMiddleware

from .fakes import CHAT, HELLO, AsgiCall, FakeClient, settings, words
from .http_server import serving

WAIT_SECONDS = 10.0
"""Longer than anything here takes; reaching it fails the test."""


class HastyProtocol(GuardedProtocol):
    head_seconds = 0.3


async def talk(url: str, *pieces: bytes, pause: float = 0.0) -> bytes:
    """What the server says to these bytes until it closes."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    said = b""

    async def listen() -> None:
        nonlocal said
        with contextlib.suppress(ConnectionError):
            while piece := await asyncio.wait_for(reader.read(65536), WAIT_SECONDS):
                said += piece

    listening = asyncio.ensure_future(listen())
    try:
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(pause)
        await listening
        return said
    finally:
        writer.close()


def statuses(said: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", said)]


BODY = json.dumps(HELLO).encode()
POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
HIDDEN = POST + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
"""A proper request, which would be answered if the server took it for one."""

FRAMING: dict[str, tuple[bytes, int]] = {
    "both lengths": (POST + b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "two lengths": (POST + b"Content-Length: 0\r\nContent-Length: 5\r\n\r\n", 400),
    "two lengths in one": (POST + b"Content-Length: 0, 5\r\n\r\n", 400),
    "negative length": (POST + b"Content-Length: -1\r\n\r\n", 400),
    "signed length": (POST + b"Content-Length: +1\r\n\r\n", 400),
    "length in hex": (POST + b"Content-Length: 0x10\r\n\r\n", 400),
    "endless length": (POST + b"Content-Length: " + b"9" * 400 + b"\r\n\r\n", 400),
    "unknown coding": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    "coding with a tab": (POST + b"Transfer-Encoding:\tchunked\x0b\r\n\r\n0\r\n\r\n", 400),
    "chunk size with sign": (POST + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n", 400),
    "chunk size with rubbish": (POST + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
    "chunk size of 30 digits": (POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 30 + b"\r\n", 400),
    "chunk without its line end": (POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nabXX", 400),
    "space before the colon": (POST + b"Content-Length : 0\r\n\r\n", 400),
    "space before the header": (b"POST /v1/chat/completions HTTP/1.1\r\n Host: x\r\n\r\n", 400),
    "no host": (b"GET /health HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    "NUL in a value": (POST + b"X-A: a\0b\r\nContent-Length: 0\r\n\r\n", 400),
    "line end in a value": (POST + b"X-A: a\rb\r\nContent-Length: 0\r\n\r\n", 400),
    "no version": (b"GET /health\r\n\r\n", 400),
    "a target with a password": (b"GET http://user:word@x/health HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "a target without a host": (b"GET http:///health HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "a target with a fragment": (b"GET http://x/v1/models#/health HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "HTTP/1.7": (b"GET /health HTTP/1.7\r\nHost: x\r\n\r\n", 505),
    "a TLS client": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200) + b"\r\n\r\n", 400),
    "bytes in the path": (b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "more chunks than sense": (POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\n{\r\n" * (MAX_CHUNKS + 1), 413),
}


@pytest.mark.parametrize("name", FRAMING)
async def test_what_is_not_http_ends_the_connection(name: str) -> None:
    sent, status = FRAMING[name]
    client = FakeClient(words(["a"]))
    async with serving(client) as url:
        said = await talk(url, sent + HIDDEN)
        assert statuses(said) == [status], said
        head, _, body = said.partition(b"\r\n\r\n")
        assert b"connection: close" in head.lower() and b"nosniff" in head
        error = json.loads(body)["error"]
        assert set(error) == {"message", "type", "param", "code"} and error["message"].endswith(".")
        assert client.requests == [], "what was hidden behind it is not heard"
        assert statuses(await talk(url, b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")) == [200]


async def test_a_head_that_grows_and_grows() -> None:
    async with serving(FakeClient(words(["a"]))) as url:
        said = await talk(url, b"GET / HTTP/1.1\r\nHost: x\r\nX-A: ", *(b"a" * 10_000 for _ in range(10)))
        assert statuses(said) == [431] and json.loads(said.partition(b"\r\n\r\n")[2])["error"]["code"] == "headers_too_large"


LARGE: dict[str, tuple[bytes, int]] = {
    "many headers": (b"".join(b"X-%d: a\r\n" % i for i in range(MAX_HEADERS)), 431),
    "large headers": (b"".join(b"X-%d: %s\r\n" % (i, b"a" * 9000) for i in range(4)), 431),
}


@pytest.mark.parametrize("name", LARGE)
async def test_large_heads(name: str) -> None:
    headers, status = LARGE[name]
    async with serving(FakeClient(words(["a"]))) as url:
        assert statuses(await talk(url, POST + b"Connection: close\r\n" + headers + b"\r\n")) == [status]


@pytest.mark.parametrize("path", [b"/" + b"a" * 9000, b"/v1/models/" + b"a" * 9000, b"/health?" + b"a" * 9000])
async def test_large_urls(path: bytes) -> None:
    async with serving(FakeClient(words(["a"]))) as url:
        said = await talk(url, b"GET " + path + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert statuses(said) == [414] and b"aaaa" not in said


@pytest.mark.parametrize("before", [b"", b"http://a.example:8180"])
async def test_path_and_query_are_what_counts(before: bytes) -> None:
    async with serving(FakeClient(words(["a"]))) as url:
        for most, status in ((MAX_TARGET_BYTES, 200), (MAX_TARGET_BYTES + 1, 414)):
            target = before + b"/health?" + b"a" * (most - len(b"/health"))
            said = await talk(url, b"GET " + target + b" HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n")
            assert statuses(said) == [status]


TRAVERSAL = ["/v1/models/../../etc/passwd", "/v1/models/..%2f..%2fetc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/etc/passwd%00.json", "/.env"]


@pytest.mark.parametrize("path", [*TRAVERSAL, "http://169.254.169.254/latest", "/health%00", "/health;x", "//health", "*"])
async def test_no_path_leads_anywhere_else(path: str) -> None:
    async with serving(FakeClient(words(["a"])), served_model_names=("ernie",)) as url:
        said = await talk(url, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert statuses(said) == [404] and b"root:" not in said and b"\0" not in said


async def test_pipelined_requests_are_answered_in_order() -> None:
    client = FakeClient(words(["first"]), words(["second"]))
    last = b"GET /nope HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    async with serving(client) as url:
        said = await talk(url, HIDDEN + HIDDEN + last)
    assert statuses(said) == [200, 200, 404]
    assert said.index(b"first") < said.index(b"second")


async def test_the_host_header_decides_nothing() -> None:
    async with serving(FakeClient(words(["a"])), api_keys=("k",)) as url:
        for host in (b"127.0.0.1", b"evil.example", b"localhost:1", b"[::1]"):
            request = b"GET /v1/models HTTP/1.1\r\nHost: " + host + b"\r\nX-Forwarded-For: 127.0.0.1\r\nConnection: close\r\n\r\n"
            assert statuses(await talk(url, request)) == [401]


def absolute(target: str, key: str = "", host: str = "other.example", version: str = "1.1") -> bytes:
    authorization = f"Authorization: Bearer {key}\r\n" if key else ""
    return f"GET {target} HTTP/{version}\r\nHost: {host}\r\n{authorization}Connection: close\r\n\r\n".encode()


ABSOLUTE = ("http://front/v1/models", "HTTPS://front:8180/v1/models?x=1", "http://[::1]:8180/v1/models", "http://a/v1/%6dodels")


@pytest.mark.parametrize("target", ABSOLUTE)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_a_target_as_proxies_take_it_is_the_path_in_it(target: str, version: str) -> None:
    async with serving(FakeClient(words(["a"])), api_keys=("k",)) as url:
        assert statuses(await talk(url, absolute(target, "k", version=version))) == [200]
        assert statuses(await talk(url, absolute(target, version=version))) == [401]
        assert statuses(await talk(url, absolute(target, "wrong", version=version))) == [401]


AROUND: dict[str, int] = {
    "http://front/health/../v1/models": 401,
    "http://front/health/%2e%2e/v1/models": 401,
    "http:///health/v1/models": 400,
    "http://front//v1/models": 401,
    "http://front/v1/models?/health": 401,
    "http://health/v1/models": 401,
    "ftp://front/v1/models": 401,
    "http:/v1/models": 401,
    "//front/v1/models": 401,
    "http://front/http://front/health": 401,
    "http://front\\health": 400,
    "http://front/status/../v1/models": 404,  # open to all, but there is nothing
    "http://front?/v1/models": 200,  # the status page
}


@pytest.mark.parametrize("target", AROUND)
async def test_no_way_of_writing_a_target_leads_around_the_keys(target: str) -> None:
    async with serving(FakeClient(words(["a"])), api_keys=("k",)) as url:
        said = await talk(url, absolute(target, host="health"))
    assert statuses(said) == [AROUND[target]] and b"owned_by" not in said


async def test_a_whole_request_with_an_absolute_target() -> None:
    client = FakeClient(words(["first"]), words(["second"]))
    async with serving(client, api_keys=("k",)) as url:
        asked = HIDDEN.replace(b"POST /", b"POST http://front/").replace(b"Host: x", b"Host: y\r\nAuthorization: Bearer k")
        said = await talk(url, asked + asked + absolute("http://front/health") + HIDDEN)
    assert statuses(said) == [200, 200, 200] and said.index(b"first") < said.index(b"second")


async def test_upgrades_are_not_taken_up(caplog: pytest.LogCaptureFixture) -> None:
    upgrades = b"Connection: Upgrade, close\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAA\r\n"
    log = logging.getLogger("uvicorn.error")
    async with serving(FakeClient(words(["a"])), api_keys=("k",)) as url:
        log.setLevel(logging.WARNING)
        log.addHandler(caplog.handler)
        try:
            assert statuses(await talk(url, b"GET /v1/models HTTP/1.1\r\nHost: x\r\n" + upgrades + b"\r\n")) == [401]
        finally:
            log.removeHandler(caplog.handler)
    assert not caplog.records, "nobody may fill the log"


SLOW_HEADS = {"the request line": b"GET /hea", "a header": b"GET /health HTTP/1.1\r\nHost: x\r\nX-A: ", "the last line": POST}


@pytest.mark.parametrize("name", SLOW_HEADS)
async def test_a_head_that_never_ends(name: str) -> None:
    async with serving(FakeClient(words(["a"])), protocol=HastyProtocol) as url:
        assert statuses(await talk(url, SLOW_HEADS[name])) == [408]


async def test_a_head_that_drips_is_late_all_the_same() -> None:
    async with serving(FakeClient(words(["a"])), protocol=HastyProtocol) as url:
        said = await talk(url, b"GET /health HTTP/1.1\r\n", *(b"X-%d: a\r\n" % i for i in range(40)), pause=0.02)
        assert statuses(said) in ([408], []), "the answer may be lost to what was still sent; the connection is gone either way"


async def test_a_connection_that_says_nothing_is_closed_without_a_word() -> None:
    async with serving(FakeClient(words(["a"])), protocol=HastyProtocol) as url:
        assert await talk(url) == b""


HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"


async def test_whoever_has_waited_longest_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those that ask for nothing; not the one that is being answered, though it came first of all."""
    monkeypatch.setattr("ernie_openai.waiting_connections.most_connections", lambda: 3)
    held = asyncio.Event()
    async with serving(FakeClient([*words(["a"]), held, *words(["b"])])) as url:
        host, port = url.removeprefix("http://").split(":")
        connections = []
        for said in (HIDDEN, HEALTH, b"GET", b"", b""):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(said)
            connections.append((reader, writer))
            await asyncio.sleep(0.1)
        answered, served, begun, *silent = [reader for reader, _ in connections]
        assert statuses(await asyncio.wait_for(served.read(), WAIT_SECONDS)) == [200], "closed behind its answer"
        assert await asyncio.wait_for(begun.read(), WAIT_SECONDS) == b""
        assert not any(reader.at_eof() for reader in silent)
        held.set()
        assert statuses(await asyncio.wait_for(answered.readuntil(b"}]"), WAIT_SECONDS)) == [200]
        for _, writer in connections:
            writer.close()


@pytest.mark.parametrize(
    ("head", "late_body"),
    [(HEALTH, b""), (POST.replace(b"chat", b"nothing") + b"Content-Length: 4\r\n\r\n", b"late")],
    ids=["whole", "late body"],
)
async def test_a_connection_may_be_idle_for_longer_than_a_head_may_take(head: bytes, late_body: bytes) -> None:
    """Also behind an answer that did not wait for the request's body."""
    async with serving(FakeClient(words(["a"])), protocol=HastyProtocol) as url:
        host, port = url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        said = b""
        for piece, pause in ((head, 0.0), (late_body, 3 * HastyProtocol.head_seconds), (HEALTH, 0.0), (HEALTH[:9], 0.0)):
            writer.write(piece)
            said += await reader.readuntil(b"\r\n\r\n") if piece.endswith(b"\r\n\r\n") else b""
            await asyncio.sleep(pause)
        said += await asyncio.wait_for(reader.read(), WAIT_SECONDS)
        writer.close()
        assert statuses(said) == [404 if late_body else 200, 200, 408], said


async def test_an_idle_connection_is_closed_without_a_word() -> None:
    class Tidy(GuardedProtocol):
        idle_seconds = 0.2

    async with serving(FakeClient(words(["a"])), protocol=Tidy) as url:
        assert statuses(await talk(url, HEALTH)) == [200]


async def test_a_long_answer_is_no_slow_head() -> None:
    go_on = asyncio.Event()
    client = FakeClient([*words(["a", "b"])[:1], go_on, words(["a", "b"])[1]])

    class Impatient(GuardedProtocol):
        head_seconds = 0.05

    async with serving(client, protocol=Impatient) as url:
        asking = asyncio.ensure_future(talk(url, HIDDEN.replace(b"Host: x\r\n", b"Host: x\r\nConnection: close\r\n")))
        await asyncio.sleep(0.3)
        go_on.set()
        assert statuses(await asking) == [200]


async def test_the_rest_of_a_refused_body_is_not_waited_for_long() -> None:
    async with serving(FakeClient(words(["a"])), protocol=HastyProtocol, max_body_bytes=10) as url:
        drip = (b"x" for _ in range(30))
        assert statuses(await talk(url, POST + b"Content-Length: 1000\r\n\r\n", *drip, pause=0.02)) == [413]


async def test_idle_connections_are_many_and_harm_nobody() -> None:
    async with serving(FakeClient(words(["a"]))) as url, idle_connections(url, 300):
        assert statuses(await talk(url, b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")) == [200]


@asynccontextmanager
async def idle_connections(url: str, count: int) -> AsyncIterator[None]:
    host, port = url.removeprefix("http://").split(":")
    pairs = [await asyncio.open_connection(host, int(port)) for _ in range(count)]
    try:
        for _, writer in pairs:
            writer.write(b"POST / HTTP/1.1\r\n")
        yield
    finally:
        for _, writer in pairs:
            writer.close()


async def test_a_body_that_never_ends() -> None:
    client = FakeClient(words(["a"]))
    app = LimitsMiddleware(create_app(settings(), client), max_body_bytes=1000, body_grace_seconds=0.1)
    call = AsgiCall(app, CHAT, HELLO, more_body=True)
    await asyncio.wait_for(call.task, WAIT_SECONDS)
    start = call.sent[0]
    assert start["status"] == 408 and (b"connection", b"close") in start["headers"]
    assert json.loads(call.sent[1]["body"])["error"]["code"] == "request_timeout" and client.requests == []


async def test_time_for_the_body_is_no_time_for_the_answer() -> None:
    go_on = asyncio.Event()
    app = LimitsMiddleware(create_app(settings(), FakeClient([go_on, *words(["a"])])), max_body_bytes=1000, body_grace_seconds=0.1)
    call = AsgiCall(app, CHAT, HELLO)
    await asyncio.sleep(0.3)
    go_on.set()
    await asyncio.wait_for(call.task, WAIT_SECONDS)
    assert call.sent[0]["status"] == 200
