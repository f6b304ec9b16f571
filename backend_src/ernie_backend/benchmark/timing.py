"""Wall-clock seconds of work that may run on another device; knows not what it times."""

from __future__ import annotations

import time
from collections.abc import Callable

from ernie_kernels import xp


def timed(function: Callable[[], object]) -> float:
    """Seconds from an idle device to an idle device."""
    settle()
    start = time.perf_counter()
    function()
    settle()
    return time.perf_counter() - start


def settle() -> None:
    """Wait until the device has nothing left to do."""
    if xp.on_gpu:
        xp.synchronize()
