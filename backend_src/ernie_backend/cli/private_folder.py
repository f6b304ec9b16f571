"""The private folder of one running server and the shared memory that bears its name; removed at its end or by the next start.

Lock files say who lives, one in the folder and one beside the shared memory: `serve` takes both and tritonserver inherits them, so they are
free only when the last of them is gone. That is why what a dead server left can be told from a living one's without guessing by process ids
(which namespaces repeat), and by whoever sees only the one or the other: a container may have its own /dev/shm and share /tmp.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import ConfigError

_PREFIX = "ernie-triton-"
_SHARED_MEMORY = Path("/dev/shm")
_NAME = re.compile(rf"{_PREFIX}[a-z0-9_]{{8}}")
"""Of a folder, as `tempfile.mkdtemp` makes it."""
_LOCK = "lock"
_LONGEST_PARENT = 60
"""A unix socket lies in the folder, and its whole path may have 107 bytes."""


class PrivateFolder:
    """Use as a context manager. `path` is ours alone (mode 0700). `ConfigError` if there is no shared memory to be had."""

    def __init__(self) -> None:
        _remove_dead()
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_parent()))
        try:
            self.locks = (_taken(self.path / _LOCK), _taken(_lock_of_shared_memory(self.path)))
            """Hand them to tritonserver (`pass_fds`), whose processes have the shared memory."""
        except OSError as error:
            shutil.rmtree(self.path, ignore_errors=True)
            where = Path(error.filename).parent if error.filename else self.path
            raise ConfigError(f"Nothing can be written to {where}, which tritonserver needs: {error.strerror}.") from None

    @property
    def shared_memory_prefix(self) -> str:
        return f"{self.path.name}-"

    def close_shared_memory(self) -> None:
        """Prompts and answers pass through it, and tritonserver makes it readable for everyone on this machine, whatever the umask."""
        for region in _regions(self.path):
            region.chmod(0o600)

    def remove_shared_memory(self) -> None:
        """What a killed tritonserver of ours has left; no process of it may live."""
        _remove_regions(self.path)

    def __enter__(self) -> PrivateFolder:
        return self

    def __exit__(self, *_: object) -> None:
        _remove_shared_memory(self.path)
        shutil.rmtree(self.path, ignore_errors=True)
        for lock in self.locks:
            os.close(lock)


def _parent() -> str:
    folder = tempfile.gettempdir()
    return folder if len(os.fsencode(folder)) <= _LONGEST_PARENT else "/tmp"


def _lock_of_shared_memory(folder: Path) -> Path:
    return _SHARED_MEMORY / f"{folder.name}-{_LOCK}"


def _taken(lock: Path) -> int:
    """A lock file that nobody can see before it is locked."""
    new = lock.with_name(f"{lock.name}.new")
    descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)  # everybody may write to /dev/shm
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    os.rename(new, lock)
    return descriptor


def _remove_dead() -> None:
    """Folders that a killed server left behind, with its shared memory, and shared memory whose folder is not to be seen from here."""
    folders = (path for path in Path(_parent()).glob(f"{_PREFIX}*") if _NAME.fullmatch(path.name) and _is_ours(path, stat.S_ISDIR))
    for lock in _free(folder / _LOCK for folder in folders):
        _remove_regions(lock.parent)
        shutil.rmtree(lock.parent, ignore_errors=True)
    for lock in _free(_SHARED_MEMORY.glob(f"{_PREFIX}*-{_LOCK}")):
        name = lock.name.removesuffix(f"-{_LOCK}")
        if _NAME.fullmatch(name):
            _remove_shared_memory(Path(name))


def _is_ours(path: Path, has_kind: Callable[[int], bool]) -> bool:
    """Whether this is so of what lies there itself, and not of what it may link to: in these folders everybody may put what they like."""
    try:
        found = path.lstat()
    except OSError:  # someone else is just removing it
        return False
    return found.st_uid == os.getuid() and has_kind(found.st_mode)


def _free(locks: Iterator[Path]) -> Iterator[Path]:
    """Those of ours that no living process holds; we do while each is looked at."""
    for path in locks:
        if not _is_ours(path, stat.S_ISREG):
            continue
        try:
            lock = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield path
        except BlockingIOError:
            pass  # alive
        finally:
            os.close(lock)


def _regions(folder: Path) -> Iterator[Path]:
    """Of the server that has this folder, whose name is its own."""
    lock = _lock_of_shared_memory(folder)
    return (path for path in _SHARED_MEMORY.glob(f"{folder.name}-*") if path != lock)


def _remove_regions(folder: Path) -> None:
    for region in _regions(folder):
        region.unlink(missing_ok=True)


def _remove_shared_memory(folder: Path) -> None:
    """The lock last: whoever finds it finds nothing else without it."""
    _remove_regions(folder)
    _lock_of_shared_memory(folder).unlink(missing_ok=True)
