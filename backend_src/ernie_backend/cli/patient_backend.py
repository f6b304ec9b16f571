"""tritonserver's Python backend, made to bear a machine that stands still for a moment.

While a model's process works, the backend looks once a second whether it is alive: whether it has set a byte since the look before. A
virtual machine that is moved, or a container whose processor time is used up, stands still for longer, and what was under way fails with
"Stub process … is not healthy". The process lives on, though, and answers after all: this answer is taken for that to the next request,
memory is freed twice, and tritonserver dies of it with every stream (python_backend r24.10, `StubLauncher::ReceiveMessageFromStub`; newer
releases wait as long). Under 16 streams and pauses of 0.9 to 2 s of single processes, two servers broke within a minute each; none with
this wait. (What can still fail is a process stopped amid setting that byte, which takes it some nanoseconds three times a second.)

There is no setting for it, so one constant is changed in a copy of the library. Only a library known to the byte is copied; another is
left as it is, and so is one whose copy could not be loaded.
"""

from __future__ import annotations

import hashlib
import logging
import mmap
import shutil
from dataclasses import dataclass
from pathlib import Path

from .written_files import link, put

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 10
"""A process that dies amid a request is noticed by `serve` at once; amid loading, after this time."""

_EPOCH_MICROSECONDS = 210_866_803_200 * 10**6
"""1970-01-01 as boost counts microseconds. A deadline in Unix time is now, minus this, plus the wait: the last two are one constant."""


@dataclass(frozen=True)
class _Wait:
    """Where a library keeps the wait of `ReceiveMessageFromStub`: 8 bytes, little endian, amid a `movabs`."""

    sha256: str
    offset: int


_KNOWN = (_Wait("08a47eb9cb120475442abebf283a910cf06053bc1322711aeb34f4d42f038cba", 0x7E8FA),)
"""nvidia-pytriton 0.7.0 (tritonserver 2.51), x86-64."""


def patient_library(library: bytes) -> bytes | None:
    """`libtriton_python.so` with the longer wait; None if this is no library that we know."""
    digest = hashlib.sha256(library).hexdigest()
    wait = next((known for known in _KNOWN if known.sha256 == digest), None)
    if wait is None:
        return None
    assert library[wait.offset : wait.offset + 8] == _constant(1)
    return library[: wait.offset] + _constant(PATIENCE_SECONDS) + library[wait.offset + 8 :]


def put_library(source: Path, target: Path) -> None:
    """Put the Python backend's library at `target`: a patient copy if that can be made and loaded there, else a link."""
    patient = patient_library(source.read_bytes())

    def copy(new: Path) -> None:
        assert patient is not None
        new.write_bytes(patient)
        shutil.copymode(source, new)
        _check_loadable(new)

    try:
        if patient is not None:
            put(target, copy)
            return
    except OSError as error:  # a full disk; a file system from which nothing may be run
        why = f"a copy that waits for longer cannot be used in {target.parent} ({error.strerror})"
        log.warning("warning: tritonserver will give up on a model's process that stands still for 1 s: %s.", why)
    link(source, target)


def _check_loadable(library: Path) -> None:
    """`OSError` where the loader could not map its code either: a `/tmp` that is mounted noexec, as `docker run --tmpfs` does it."""
    with library.open("rb") as file:
        mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_EXEC).close()


def _constant(seconds: int) -> bytes:
    return ((seconds * 10**6 - _EPOCH_MICROSECONDS) % 2**64).to_bytes(8, "little")
