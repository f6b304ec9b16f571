"""The sockets between the steps: consumed · stopped · cancelled · ended to the engine, drain from `serve`, cancelled to preprocess.

Knows none of them.

A Triton ensemble never tells a running decoupled step that its client has gone, and queues responses without bound. Postprocess sees every
response, so it reports back here; of requests that preprocess still works on the engine hears, and tells it likewise.

Messages are datagrams of plain ASCII, safe to repeat but for `ended`, which only counts; a lost one costs time only. A socket lies in a
folder that only its owner may enter: who can write to it can end requests.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

log = logging.getLogger(__name__)

SOCKET_NAME = "relay.sock"
"""The engine's."""
_MAX_DATAGRAM_BYTES = 256
_SEND_TIMEOUT_SECONDS = 1.0
"""The receiver only reads and queues; a second without progress means it is gone."""


_VERBS: dict[str, tuple[Callable[[str], Any], ...]] = {
    "consumed": (int,),
    "cancelled": (str,),
    "stopped": (str, int),
    "ended": (str,),
    "drain": (float,),
}
"""How each one's arguments are read."""


class CancelHandler(Protocol):
    """Who listens: called on the receiver's thread, must return at once. It hears those words that it has a method for."""

    def cancelled(self, key: str) -> None: ...


class RelayHandler(CancelHandler, Protocol):
    """The engine's side."""

    def consumed(self, num_responses: int) -> None: ...
    def stopped(self, key: str, index: int) -> None: ...
    def ended(self, reason: str) -> None: ...
    def drain(self, seconds: float) -> None: ...


class RelaySender:
    """The speaker's end. Never raises: a dead engine ends its streams by itself."""

    def __init__(self, path: str, patience_seconds: float = _SEND_TIMEOUT_SECONDS) -> None:
        """`patience_seconds`: how long a message may wait for room in the listener's queue until it is given up."""
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(patience_seconds)

    def consumed(self, num_responses: int) -> None:
        """So many more responses have been taken off the engine's hands, whosever they were."""
        self._send(f"consumed {num_responses}")

    def cancelled(self, key: str) -> None:
        """The client has gone."""
        self._send(f"cancelled {key}")

    def stopped(self, key: str, index: int) -> None:
        """The choice reached a stop string."""
        self._send(f"stopped {key} {index}")

    def ended(self, reason: str) -> None:
        """A choice that stopped, of a request that may call tools, came to this: `stop` or `tool_calls`. Only counted, and sent once."""
        self._send(f"ended {reason}")

    def drain(self, seconds: float) -> None:
        """Take no more requests, and abort what still runs after `seconds`."""
        self._send(f"drain {seconds:g}")

    def close(self) -> None:
        self._socket.close()

    def _send(self, text: str) -> None:
        try:
            self._socket.sendto(text.encode("ascii"), self._path)
        except OSError as error:
            log.debug("relay: %s not sent: %s", text.split(" ", 1)[0], error)


class RelayReceiver:
    """The listener's end: a socket in a private folder and a thread that reads it. `folder`: where to put it; None: a temporary folder."""

    def __init__(self, handler: CancelHandler, folder: str | None = None, name: str = SOCKET_NAME) -> None:
        self._handler = handler
        self._own_folder = None if folder else tempfile.mkdtemp(prefix="ernie-relay-")
        self.path = str(Path(folder or self._own_folder or "") / name)
        self._socket = self._bound()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="ernie-relay", daemon=True)
        self._thread.start()

    def _bound(self) -> socket.socket:
        """A new socket at `path`."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)  # left by an engine that was killed
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        bound.bind(self.path)
        os.chmod(self.path, 0o600)
        self._inode = os.stat(self.path).st_ino
        return bound

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def restore(self) -> None:
        """Bind anew if somebody has removed the socket's file, as cleaners of temporary folders do: nobody could reach us any more."""
        try:
            if self._closing or os.stat(self.path).st_ino == self._inode:
                return
        except OSError:  # it, or its folder, is gone
            pass
        try:
            before, self._socket = self._socket, self._bound()
        except OSError as error:
            log.error("relay: the socket's file is gone and cannot be made anew: %s", error)
            return
        log.warning("relay: the socket's file was gone and has been made anew")
        with contextlib.suppress(OSError):
            before.shutdown(socket.SHUT_RDWR)  # wakes the reader, which closes it and goes on with the new one

    def close(self) -> None:
        """End the thread and remove socket and folder."""
        self._closing = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._socket.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        if self._own_folder:
            shutil.rmtree(self._own_folder, ignore_errors=True)

    def _run(self) -> None:
        while not self._closing:
            reading = self._socket
            try:
                data = reading.recv(_MAX_DATAGRAM_BYTES)
            except OSError:
                if reading is self._socket:
                    return
                data = b""
            if not data:
                if reading is not self._socket:
                    reading.close()  # `restore` has shut it down
                continue
            try:
                self._dispatch(data.decode("ascii"))
            except Exception as error:
                log.warning("relay: a datagram was ignored: %r (%s)", data[:80], error)

    def _dispatch(self, text: str) -> None:
        verb, *arguments = text.split(" ")
        hear = getattr(self._handler, verb, None) if verb in _VERBS else None
        if hear is None:
            raise ValueError(f"unknown verb {verb!r}")
        hear(*(read(argument) for read, argument in zip(_VERBS[verb], arguments, strict=True)))
