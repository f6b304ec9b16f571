"""Keeps Python's garbage collector from running at a time when it must not; knows no framework."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """While a CUDA graph is recorded: what is collected then, another graph for one, calls the driver, which breaks the recording."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
