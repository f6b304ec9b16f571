"""uvicorn's HTTP/1.1 connection with what it lacks: limits (time for a request's head, number of chunks, connections that only wait),
errors in our words, and an answer for clients that close their half of the connection behind their request.

Knows no route. What is wrong with a request that has a proper head is refused in `middleware.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import re
import socket
import sys
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.utils import is_ssl

from ernie_backend.errors import ErnieError, InvalidRequestError, PayloadTooLargeError

from .errors import HeadersTooLargeError, SlowBodyError, dumps, error_object
from .streaming import HARMLESS
from .waiting_connections import WaitingConnections

MAX_HEAD_BYTES = 64 * 1024
MAX_CHUNKS = 8192
"""Of one body. Each costs about 10 µs, and a body of 16 MiB in single bytes would hold up everyone for minutes."""

_FIRST_LOOK_SECONDS, _LONGEST_LOOK_SECONDS = 0.001, 0.1
"""Between two looks whether a client that sends no more still listens; each twice as long as the last."""
_TCP_CLOSED = 7  # linux/tcp_states.h; the first byte of TCP_INFO

_ABSOLUTE = re.compile(rb"https?://([^/?#]*)([^#]*)(#.*)?", re.IGNORECASE)
_AUTHORITY = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]+)(:[0-9]*)?")
"""Without a user and a password, which RFC 9110 tells servers to distrust."""

_NOT_HTTP = InvalidRequestError("This is not a proper HTTP/1.1 request.")
_FAULTS: dict[int, ErnieError] = {
    408: SlowBodyError("The request did not arrive in time."),
    413: PayloadTooLargeError(f"The request body comes in more than {MAX_CHUNKS} chunks. Send larger ones, or say Content-Length."),
    431: HeadersTooLargeError(f"The head of a request may have {MAX_HEAD_BYTES} bytes."),
    501: InvalidRequestError("This Transfer-Encoding is not known. Send the body in chunks or with Content-Length."),
}


_WAITING = WaitingConnections()


class _CountingConnection(h11.Connection):
    """Adds to h11's protocol errors, with the status to answer: unknown versions, a length told in two ways, a body in too many chunks."""

    def __init__(self) -> None:
        super().__init__(h11.SERVER, MAX_HEAD_BYTES)
        self._chunks = 0

    def next_event(self) -> Any:
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._chunks = 0
            if event.http_version not in (b"1.0", b"1.1"):
                raise h11.RemoteProtocolError("another version", error_status_hint=505)
            if {b"content-length", b"transfer-encoding"} <= {name for name, _ in event.headers}:
                # Which of the two a proxy before us believed is anyone's guess, and a second request could hide in the difference.
                raise h11.RemoteProtocolError("two lengths")
            event = _in_origin_form(event)
        elif isinstance(event, h11.Data) and event.chunk_start:
            self._chunks += 1
            if self._chunks > MAX_CHUNKS:
                raise h11.RemoteProtocolError("too many chunks", error_status_hint=413)
        return event


def _in_origin_form(request: h11.Request) -> h11.Request:
    """`GET http://host/path`, as proxies are asked, becomes `GET /path` with that host (RFC 9112, 3.2.2): before anyone has looked at the
    target, so that whoever asks for keys and whoever finds routes see the same path."""
    absolute = _ABSOLUTE.fullmatch(request.target)
    if absolute is None:
        return request
    authority, path, fragment = absolute.groups()
    if fragment or not _AUTHORITY.fullmatch(authority):
        raise h11.RemoteProtocolError("a target that is none")
    target = path if path.startswith(b"/") else b"/" + path
    headers = [(b"host", authority), *((name, value) for name, value in request.headers if name != b"host")]
    return h11.Request(method=request.method, target=target, headers=headers, http_version=request.http_version)


class GuardedProtocol(H11Protocol):
    """One connection."""

    head_seconds = 20.0
    """From the connection, or the first byte behind an answer, to the last line of a head; what was left of a refused body included."""
    idle_seconds = 75.0
    """Without a byte behind an answer. Longer than clients and proxies keep an idle connection (httpx, and so openai, 5 s; aiohttp 15; most
    proxies 60), so that it is they who end it: a request that meets our end on its way is lost, and a POST is not sent again."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn = _CountingConnection()
        self.timeout_keep_alive = self.idle_seconds  # type: ignore[assignment]  # uvicorn's own timer, which does not go on behind a late body
        self._wait_seconds: float | None = None  # what the timer below was set to
        self._wait_timer: asyncio.TimerHandle | None = None
        self._look_timer: asyncio.TimerHandle | None = None
        self._sends_no_more = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait_for_the_client()
        _WAITING.make_room(len(self.connections))

    def connection_lost(self, exc: Exception | None) -> None:
        _WAITING.remove(self.transport)
        for timer in (self._wait_timer, self._look_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._wait_for_the_client()

    def on_response_complete(self) -> None:
        super().on_response_complete()  # what was pipelined begins at once
        self._wait_for_the_client()
        if self._sends_no_more and self.cycle.response_complete:
            self.transport.close()

    def _unsupported_upgrade_warning(self) -> None:
        """Nothing to the log: anybody may ask for WebSocket, and is answered as if he had not."""

    # A client that closes its half --------------------------------------------------------------------------------------------

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """True keeps our half open. It looks the same when a client only has nothing more to send, and when it has gone for good: but one
        that has gone answers what it is still sent with a reset. (One that goes later does so with the next piece of its answer.) Where
        that cannot be told, it counts as gone: TLS knows no half-closed connections, HTTP/1.0 nothing that could be sent before an answer,
        and proxies speak that."""
        if is_ssl(self.transport) or self.cycle is None or self.cycle.response_complete or self.cycle.more_body:
            return None
        scope: Any = self.cycle.scope
        if self.conn.our_state is h11.SEND_RESPONSE and scope["method"] == "POST" and scope["http_version"] == "1.0":
            return None
        self._sends_no_more = True
        self._send_something_harmless()
        self._look_whether_it_listens(_FIRST_LOOK_SECONDS)
        return True

    def _send_something_harmless(self) -> None:
        """What a client must ignore: an interim response, or what the answer itself knows. Not for a GET, which is answered soon and holds
        nothing up, and may come from a script that reads the first line."""
        scope: Any = self.cycle.scope
        if self.conn.our_state is h11.SEND_RESPONSE and scope["method"] == "POST" and scope["http_version"] == "1.1":
            self.transport.write(self.conn.send(h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")) or b"")
        elif self.conn.our_state is h11.SEND_BODY and HARMLESS in scope:
            self.transport.write(self.conn.send(h11.Data(data=scope[HARMLESS])) or b"")

    def _look_whether_it_listens(self, seconds: float) -> None:
        if self.transport.is_closing():
            return
        connection: socket.socket = self.transport.get_extra_info("socket")
        if connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSED:
            self.transport.abort()
        else:
            again = min(2 * seconds, _LONGEST_LOOK_SECONDS)
            self._look_timer = self.loop.call_later(seconds, self._look_whether_it_listens, again)

    # Heads and faults ---------------------------------------------------------------------------------------------------------

    def _wait_for_the_client(self) -> None:
        """Set the time that it has, if another one counts from now on: none while it waits for us."""
        if self.cycle is None:
            seconds: float | None = self.head_seconds
        elif not self.cycle.response_complete:
            seconds = None
        elif self.conn.our_state is self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]:
            seconds = self.idle_seconds
        else:
            seconds = self.head_seconds
        if seconds == self._wait_seconds:
            return
        if self._wait_timer is not None:
            self._wait_timer.cancel()
        self._wait_seconds = seconds
        self._wait_timer = None if seconds is None else self.loop.call_later(seconds, self._client_is_late)
        if seconds is None:
            _WAITING.remove(self.transport)
        else:
            _WAITING.add(self.transport)

    def _client_is_late(self) -> None:
        if self.transport.is_closing():
            return
        if self.conn.trailing_data[0]:
            self._refuse(408)
        else:  # it said nothing, and might take an answer for that to its next request
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn while it handles what h11 raised."""
        error = sys.exc_info()[1]
        self._refuse(error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else 400)

    def _refuse(self, status: int) -> None:
        """Answer if an answer may still be given, and close."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = dumps(error_object(_FAULTS.get(status, _NOT_HTTP)))
            headers = [
                ("content-type", "application/json"),
                ("content-length", str(len(body))),
                ("x-content-type-options", "nosniff"),
                ("connection", "close"),
            ]
            with contextlib.suppress(h11.LocalProtocolError):
                head = self.conn.send(h11.Response(status_code=status, headers=headers, reason=http.HTTPStatus(status).phrase))
                self.transport.write((head or b"") + (self.conn.send(h11.Data(data=body)) or b""))
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # else the application would answer, too
            self.cycle.message_event.set()
        self.transport.close()
