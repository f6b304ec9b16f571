"""Threads for many items at once, of which no single host holds all: one that hangs makes only its own items wait. Knows no media."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Result = TypeVar("Result")


class Lane:
    """Items of a host begin in the order in which they came. `close` when done."""

    def __init__(self, name: str, threads: int, max_items: int) -> None:
        """A quarter of the threads is never one host's; `max_items`: under way and waiting, which the caller counts."""
        self.max_items = max_items
        self.num_items = 0
        self._share = threads - threads // 4
        self._executor = ThreadPoolExecutor(threads, name)
        self._lock = threading.Lock()
        self._begun: Counter[str] = Counter()
        """By host: items that have a thread or are next for one."""
        self._waiting: dict[str, deque[tuple[Future[Any], Callable[[], None]]]] = {}

    def submit(self, host: str | None, work: Callable[[], Result]) -> Future[Result]:
        """`host`: whose share of the threads it takes; None: nobody's. What has not begun can be cancelled."""
        future: Future[Result] = Future()

        def run() -> None:
            try:
                if future.set_running_or_notify_cancel():
                    try:
                        result = work()
                    except BaseException as error:
                        future.set_exception(error)
                    else:
                        future.set_result(result)
            finally:
                self._ended(host)

        with self._lock:
            begins = host is None or self._begun[host] < self._share
            if host is not None and begins:
                self._begun[host] += 1
            elif host is not None:
                self._waiting.setdefault(host, deque()).append((future, run))
        if begins:
            self._begin(future, run)
        return future

    def _begin(self, future: Future[Any], run: Callable[[], None]) -> None:
        try:
            on_thread = self._executor.submit(run)
        except RuntimeError:  # it is closed
            future.cancel()
        else:
            on_thread.add_done_callback(lambda ended: future.cancel() if ended.cancelled() else None)

    def _ended(self, host: str | None) -> None:
        """The next item of the host takes the place."""
        if host is None:
            return
        with self._lock:
            waiting = self._waiting.get(host)
            following = waiting.popleft() if waiting else None
            if not waiting:
                self._waiting.pop(host, None)
            if following is None:
                self._begun[host] -= 1
                if not self._begun[host]:
                    del self._begun[host]
        if following is not None:
            self._begin(*following)

    def close(self) -> None:
        """Waits for what is under way; what is not is cancelled."""
        with self._lock:
            waiting = [future for queue in self._waiting.values() for future, _ in queue]
            self._waiting.clear()
        for future in waiting:
            future.cancel()
        self._executor.shutdown(wait=True, cancel_futures=True)
