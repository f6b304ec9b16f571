"""How CPU kernels are compiled, cached and divided among threads; knows no operator."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numba

CONTRACT = {"contract"}
"""Lets a·b + c be one fused instruction: exact enough, and element by element, so results do not depend on the batch."""


class _Threads:
    count = len(os.sched_getaffinity(0))


def num_threads() -> int:
    """Into how many parts a kernel divides its work."""
    return _Threads.count


def set_num_threads(count: int) -> None:
    """Asserts 1 ≤ count. More than the process has cores only costs."""
    assert count >= 1
    _Threads.count = count


def _cache_candidates() -> list[Path]:
    """Folders for compiled code, the best first, named after the kernels' own text: numba itself would notice a change only in the file
    that holds a kernel, not in those it calls."""
    text = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    name = f"ernie_kernels-{hashlib.sha256(text).hexdigest()[:16]}"
    home = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    return [home / name, Path(tempfile.gettempdir()) / f"{name}-{os.getuid()}"]


def usable_cache_directory(candidates: Iterable[Path]) -> str | None:
    """The first folder that exists or can be made, can be written, and is nobody else's to write (what lies there is run); None: none."""
    for folder in candidates:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = folder.stat()
        except OSError:
            continue
        if found.st_uid == os.getuid() and not found.st_mode & 0o022 and os.access(folder, os.W_OK):
            return str(folder)
    return None


_CACHE_DIRECTORY = usable_cache_directory(_cache_candidates())


def kernel(parallel: bool = False, fastmath: Any = False) -> Callable[[Callable[..., Any]], Any]:
    """Compiles at the first call for each set of argument types. Kernels run without the interpreter lock."""

    def decorate(function: Callable[..., Any]) -> Any:
        settings: Any = numba.config
        previous = settings.CACHE_DIR
        settings.CACHE_DIR = _CACHE_DIRECTORY or previous
        try:
            return numba.njit(nogil=True, error_model="numpy", parallel=parallel, fastmath=fastmath, cache=_CACHE_DIRECTORY is not None)(
                function
            )
        finally:
            settings.CACHE_DIR = previous

    return decorate
