"""The socket between postprocess and engine: consumed · stopped · cancelled (and drain, from `serve`). Knows no Triton and no engine.

A Triton ensemble never tells a running decoupled step that its client has gone, and queues responses without bound. Postprocess sees every
response, so it reports back here. Messages are datagrams of plain ASCII; a lost one costs
time only. The socket lies in a folder that only its owner may enter: who can write to it can end requests.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import tempfile
import threading
from pathlib import Path
from typing import Protocol

log = logging.getLogger(__name__)

SOCKET_NAME = "relay.sock"
_MAX_DATAGRAM_BYTES = 256
_SEND_TIMEOUT_SECONDS = 1.0
"""The receiver only reads and queues; a second without progress means it is gone."""


class RelayHandler(Protocol):
    """Who listens: called on the receiver's thread, must return at once."""

    def consumed(self, num_responses: int) -> None: ...
    def cancelled(self, key: str) -> None: ...
    def stopped(self, key: str, index: int) -> None: ...
    def drain(self, seconds: float) -> None: ...


class RelaySender:
    """Postprocess' end. Never raises: a dead engine ends its streams by itself."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(_SEND_TIMEOUT_SECONDS)

    def consumed(self, num_responses: int) -> None:
        """So many more responses have been taken off the engine's hands, whosever they were."""
        self._send(f"consumed {num_responses}")

    def cancelled(self, key: str) -> None:
        """The client has gone."""
        self._send(f"cancelled {key}")

    def stopped(self, key: str, index: int) -> None:
        """The choice reached a stop string."""
        self._send(f"stopped {key} {index}")

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
    """The engine's end: a socket in a private folder and a thread that reads it. `folder`: where to put it; None: a temporary folder."""

    def __init__(self, handler: RelayHandler, folder: str | None = None) -> None:
        self._handler = handler
        self._own_folder = None if folder else tempfile.mkdtemp(prefix="ernie-relay-")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.path = str(Path(folder or self._own_folder or "") / SOCKET_NAME)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)  # left by an engine that was killed
        self._socket.bind(self.path)
        os.chmod(self.path, 0o600)
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="ernie-relay", daemon=True)
        self._thread.start()

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
            try:
                data = self._socket.recv(_MAX_DATAGRAM_BYTES)
            except OSError:
                return
            if not data:
                continue
            try:
                self._dispatch(data.decode("ascii"))
            except Exception as error:
                log.warning("relay: a datagram was ignored: %r (%s)", data[:80], error)

    def _dispatch(self, text: str) -> None:
        verb, *arguments = text.split(" ")
        if verb == "consumed":
            (count,) = arguments
            self._handler.consumed(int(count))
        elif verb == "cancelled":
            (key,) = arguments
            self._handler.cancelled(key)
        elif verb == "stopped":
            key, index = arguments
            self._handler.stopped(key, int(index))
        elif verb == "drain":
            (seconds,) = arguments
            self._handler.drain(float(seconds))
        else:
            raise ValueError(f"unknown verb {verb!r}")
