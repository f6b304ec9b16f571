"""The private folder of one running server and the shared memory that bears its name; removed at its end or by the next start.

A lock file says who lives: `serve` takes the lock and tritonserver inherits it, so it is free only when the last of them is gone. That
is why a dead server's folder can be told from a living one's without guessing by process ids (which namespaces repeat).
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

_PREFIX = "ernie-triton-"
_SHARED_MEMORY = Path("/dev/shm")
_LONGEST_PARENT = 60
"""A unix socket lies in the folder, and its whole path may have 107 bytes."""


class PrivateFolder:
    """Use as a context manager. `path` is ours alone (mode 0700)."""

    def __init__(self) -> None:
        _remove_dead()
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_parent()))
        self.lock = os.open(self.path / "lock.new", os.O_RDWR | os.O_CREAT, 0o600)
        """Hand it to every child (`pass_fds`)."""
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        os.rename(self.path / "lock.new", self.path / "lock")  # nobody can see it before it is locked

    @property
    def shared_memory_prefix(self) -> str:
        return f"{self.path.name}-"

    def close_shared_memory(self) -> None:
        """Prompts and answers pass through it, and tritonserver makes it readable for everyone on this machine, whatever the umask."""
        for region in _SHARED_MEMORY.glob(f"{self.shared_memory_prefix}*"):
            region.chmod(0o600)

    def remove_shared_memory(self) -> None:
        """What a killed tritonserver of ours has left; no process of it may live."""
        _remove_shared_memory(self.path)

    def __enter__(self) -> PrivateFolder:
        return self

    def __exit__(self, *_: object) -> None:
        _remove(self.path)
        os.close(self.lock)


def _parent() -> str:
    folder = tempfile.gettempdir()
    return folder if len(os.fsencode(folder)) <= _LONGEST_PARENT else "/tmp"


def _remove_dead() -> None:
    """Folders that a killed server left behind, with its shared memory."""
    for folder in Path(_parent()).glob(f"{_PREFIX}*"):
        try:
            if folder.stat().st_uid != os.getuid():
                continue
            lock = os.open(folder / "lock", os.O_RDWR)
        except OSError:  # someone else is just making or removing it
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(folder)
        except BlockingIOError:
            pass  # alive
        finally:
            os.close(lock)


def _remove_shared_memory(folder: Path) -> None:
    for region in _SHARED_MEMORY.glob(f"{folder.name}-*"):  # the folder's name is this server's alone
        region.unlink(missing_ok=True)


def _remove(folder: Path) -> None:
    _remove_shared_memory(folder)
    shutil.rmtree(folder, ignore_errors=True)
