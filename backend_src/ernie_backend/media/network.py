"""TCP connections that go only where they may, and never longer than they may: httpcore's network backend for fetching media.

The name of a host is resolved once; every address found is checked, and one of those is connected to. So a name that changes its address
between check and connection (rebinding) gains nothing, and TLS still proves the name.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, Executor
from concurrent.futures import TimeoutError as FutureTimeoutError
from ssl import SSLContext
from typing import Any

import httpcore2

from ..abort_signal import NEVER, AbortSignal
from ..errors import UnavailableError
from .addresses import is_allowed
from .sniff import MediaError

Resolver = Callable[[str, int], list[str]]
"""Name and port → addresses. Raises OSError if there are none."""

MAX_ADDRESSES = 16
_SLICE_SECONDS = 0.5
"""A wait for data is cut into slices of this, so that an abort and the end of the server end it, too."""


def resolve(host: str, port: int) -> list[str]:
    """The system's resolver."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for _, _, _, _, address in found))


def stopping() -> UnavailableError:
    return UnavailableError("The server stops. Send the request to another one, or again later.")


class Deadline:
    """A point in time at which work has to end, or earlier when `closing` or `signal` is set."""

    def __init__(self, seconds: float, closing: threading.Event, signal: AbortSignal = NEVER) -> None:
        self._end = time.monotonic() + seconds
        self.closing = closing
        self.signal = signal

    def left(self) -> float:
        """Seconds (> 0). `MediaError` if none are left, `UnavailableError` if the server stops, `RequestAbortedError` if nobody waits."""
        self.signal.check()
        left = self._end - time.monotonic()
        if left <= 0:
            raise MediaError("was not received in time")
        if self.closing.is_set():
            raise stopping()
        return left


class CheckedBackend(httpcore2.NetworkBackend):
    """For one fetch; connects to checked addresses only."""

    def __init__(self, resolver: Resolver, executor: Executor, deadline: Deadline, *, connect_seconds: float, allow_private: bool) -> None:
        """`executor` runs the resolver, which nothing else could end in time."""
        self._resolver = resolver
        self._executor = executor
        self._deadline = deadline
        self._connect_seconds = connect_seconds
        self._allow_private = allow_private

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        error: Exception | None = None
        for address in self._checked(host, port):
            seconds = min(self._connect_seconds, self._deadline.left())
            try:
                stream = httpcore2.SyncBackend().connect_tcp(address, port, seconds, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as failed:
                error = failed
            else:
                return _TimedStream(stream, self._deadline)
        raise error or MediaError("has a host whose name has no address")

    def _checked(self, host: str, port: int) -> list[str]:
        """The addresses of the name. One that is not allowed spoils all: an honest name has none such."""
        seconds = min(self._connect_seconds, self._deadline.left())
        try:
            found = self._executor.submit(self._resolver, host, port).result(seconds)
        except FutureTimeoutError:
            raise MediaError("has a host whose name could not be resolved in time") from None
        except (CancelledError, RuntimeError):  # the executor has been shut down
            raise stopping() from None
        except (OSError, UnicodeError):
            raise MediaError("has a host whose name cannot be resolved") from None
        if not all(is_allowed(address, allow_private=self._allow_private) for address in found):
            raise MediaError("has a host whose address is not public; this server fetches from public addresses only")
        return found[:MAX_ADDRESSES]


class _TimedStream(httpcore2.NetworkStream):
    """A stream whose every operation ends with the deadline, however slowly bytes drip in."""

    def __init__(self, stream: httpcore2.NetworkStream, deadline: Deadline) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        while True:
            try:
                return self._stream.read(max_bytes, min(_SLICE_SECONDS, self._deadline.left()))
            except httpcore2.ReadTimeout:
                continue

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._deadline.left())

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        with self._stream.get_extra_info("socket").dup() as handle:  # the handshake takes the socket itself away

            def give_up() -> None:
                with contextlib.suppress(OSError):
                    handle.shutdown(socket.SHUT_RDWR)

            with self._deadline.signal.ending(give_up):
                return _TimedStream(self._stream.start_tls(ssl_context, server_hostname, self._deadline.left()), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
