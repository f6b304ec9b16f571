"""Ends the connections of a process on which nothing is under way, from outside; knows no protocol.

tritonserver 2.51 waits for every HTTP connection that a client keeps open as if a request were under way, and for every open gRPC stream
without an end: 5 s, after which it leaves its models' processes to themselves, or until it is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
from collections.abc import Collection, Iterator
from pathlib import Path

_PIDFD_GETFD = 438  # asm/unistd.h, the same everywhere
_ESTABLISHED = "01"  # linux/tcp_states.h


class IdleConnections:
    """Those to `ports` that have nothing to send when it is made. `close` ends those of them that still have nothing to send."""

    def __init__(self, pid: int, ports: Collection[int]) -> None:
        self._pid = pid
        self._ports = ports
        self._sockets = self._silent()

    def close(self) -> int:
        """How many were ended: none where the kernel does not let us reach into another process (a container without ptrace)."""
        silent, count = self._sockets & self._silent(), 0
        with contextlib.suppress(OSError), _handle(self._pid) as process:
            for descriptor in self._descriptors(silent):
                _shut_down(process, descriptor)
                count += 1
        return count

    def _silent(self) -> set[str]:
        """The sockets' inodes. A client that reads slowly has something in its queue."""
        found = set()
        for table in ("tcp", "tcp6"):
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{self._pid}/net/{table}").read_text(encoding="ascii").splitlines()[1:]:
                    fields = line.split()
                    local, state, (to_send, _) = fields[1], fields[3], fields[4].split(":")
                    if state == _ESTABLISHED and int(local.rpartition(":")[2], 16) in self._ports and int(to_send, 16) == 0:
                        found.add(fields[9])
        return found

    def _descriptors(self, inodes: set[str]) -> Iterator[int]:
        for link in Path(f"/proc/{self._pid}/fd").iterdir():
            with contextlib.suppress(OSError):  # closed meanwhile
                kind, _, inode = os.readlink(link).partition(":")
                if kind == "socket" and inode.strip("[]") in inodes:
                    yield int(link.name)


@contextlib.contextmanager
def _handle(pid: int) -> Iterator[int]:
    handle = os.pidfd_open(pid)
    try:
        yield handle
    finally:
        os.close(handle)


def _shut_down(process: int, descriptor: int) -> None:
    copy = ctypes.CDLL(None, use_errno=True).syscall(_PIDFD_GETFD, process, descriptor, 0)
    if copy < 0:
        raise OSError(ctypes.get_errno(), "pidfd_getfd")
    with socket.socket(fileno=copy) as connection, contextlib.suppress(OSError):  # the client was faster
        connection.shutdown(socket.SHUT_RDWR)
