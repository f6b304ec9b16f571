"""Ends the connections of a process on which nothing is under way, from outside; knows no protocol.

tritonserver 2.51 waits for every HTTP connection that a client keeps open as if a request were under way, and for every open gRPC stream
without an end: 5 s, after which it leaves its models' processes to themselves, or until it is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import time
from collections.abc import Collection, Iterator
from pathlib import Path

_PIDFD_GETFD = 438  # asm/unistd.h, the same everywhere
_ESTABLISHED = "01"  # linux/tcp_states.h
_LOOK_SECONDS = 0.1
"""What was sent is acknowledged within 40 ms."""


class IdleConnections:
    """Those of process `pid` to `ports`."""

    def __init__(self, pid: int, ports: Collection[int]) -> None:
        self._pid = pid
        self._ports = ports

    def close(self, seconds: float = 1.0) -> int:
        """End those that have nothing to send in two looks, until none is left or `seconds` are over. How many were ended: none where the
        kernel does not let us reach into another process (a container without ptrace)."""
        deadline, count = time.monotonic() + seconds, 0
        before: set[str] = set()
        while (connections := self._connections()) and time.monotonic() < deadline:
            silent = {inode for inode, to_send in connections.items() if to_send == 0}
            with contextlib.suppress(OSError, AttributeError), _handle(self._pid) as process:  # some builds of Python lack pidfd_open
                for descriptor, inode in self._descriptors(before & silent):
                    count += _shut_down(process, descriptor, inode)
            before = silent
            time.sleep(_LOOK_SECONDS)
        return count

    def _connections(self) -> dict[str, int]:
        """The sockets' inodes and the bytes that they have still to send. A client that reads slowly leaves some."""
        found = {}
        for table in ("tcp", "tcp6"):
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{self._pid}/net/{table}").read_text(encoding="ascii").splitlines()[1:]:
                    fields = line.split()
                    if fields[3] == _ESTABLISHED and int(fields[1].rpartition(":")[2], 16) in self._ports:
                        found[fields[9]] = int(fields[4].partition(":")[0], 16)
        return found

    def _descriptors(self, inodes: set[str]) -> Iterator[tuple[int, str]]:
        for link in Path(f"/proc/{self._pid}/fd").iterdir():
            with contextlib.suppress(OSError):  # closed meanwhile
                kind, _, inode = os.readlink(link).partition(":")
                if kind == "socket" and inode.strip("[]") in inodes:
                    yield int(link.name), inode.strip("[]")


@contextlib.contextmanager
def _handle(pid: int) -> Iterator[int]:
    handle = os.pidfd_open(pid)
    try:
        yield handle
    finally:
        os.close(handle)


def _shut_down(process: int, descriptor: int, inode: str) -> bool:
    """False if it is closed meanwhile, or another file. Raises OSError where the kernel does not let us."""
    copy = ctypes.CDLL(None, use_errno=True).syscall(_PIDFD_GETFD, process, descriptor, 0)
    if copy < 0:
        if ctypes.get_errno() == errno.EBADF:
            return False
        raise OSError(ctypes.get_errno(), "pidfd_getfd")
    if str(os.fstat(copy).st_ino) != inode:
        os.close(copy)
        return False
    with socket.socket(fileno=copy) as connection, contextlib.suppress(OSError):  # the client was faster
        connection.shutdown(socket.SHUT_RDWR)
    return True
