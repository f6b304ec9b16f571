"""Whether anybody still waits for a request that is being prepared; a leaf: knows neither the request nor what works for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .errors import RequestAbortedError


def aborted() -> RequestAbortedError:
    """What the request is told, if there is anybody to tell."""
    return RequestAbortedError("The request was aborted before its answer was complete, as POST /v1/abort_requests asked.")


class AbortSignal:
    """Of one request. Set once and for good, from any thread; what works for the request asks it, or hangs its own end on it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ends: list[Callable[[], object]] = []
        self._is_set = False

    def set(self) -> None:
        """Nobody waits any more. Returns when all that was hung on it has been called."""
        with self._lock:
            self._is_set = True
            ends, self._ends = self._ends, []
            for end in ends:  # with the lock: behind its block, an `end` of `ending` is never called
                end()

    def check(self) -> None:
        """Raises `RequestAbortedError` if it is set."""
        if self._is_set:
            raise aborted()

    def add(self, end: Callable[[], object]) -> None:
        """`end` is called when it is set, which may be now. It must return soon, must not raise, and must not touch this signal."""
        with self._lock:
            if not self._is_set:
                self._ends.append(end)
                return
        end()

    @contextmanager
    def ending(self, end: Callable[[], object]) -> Iterator[None]:
        """`end` is called if it is set while the block runs. Raises `RequestAbortedError` at once if it is set already."""
        self.check()
        self.add(end)
        try:
            yield
        finally:
            with self._lock:
                if end in self._ends:
                    self._ends.remove(end)


NEVER = AbortSignal()
"""For work that nobody can abort."""
