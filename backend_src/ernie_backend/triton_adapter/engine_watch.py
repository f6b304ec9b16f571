"""Looks whether the engine still answers, and ends its process when it does not. Knows no tokens and no metrics.

Triton 2.51 asks no model whether it is ready: a process with a dead or hung engine would be called ready for ever, and clients of requests
under way would wait for ever. So every one of them is told, and the process ends: `serve`, or whatever supervises tritonserver, notices.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable

from ..build import ServingEngine

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 1.0

LAST_WORDS_SECONDS = 2.0
"""For the error responses to leave, before the process follows them; it does at once when it is told to end anyway."""


def _end_process() -> None:
    os._exit(1)  # a hung thread would survive anything gentler


class EngineWatch:
    """A thread that looks once a second; `close` before the engine is shut down."""

    def __init__(
        self,
        serving: ServingEngine,
        tell_all: Callable[[], None],
        give_up: Callable[[str], None],
        end_process: Callable[[], None] = _end_process,
    ) -> None:
        """`tell_all` ends every request under way with an error, without the engine's help; `give_up` tells a supervisor why."""
        self._serving = serving
        self._tell_all = tell_all
        self._give_up = give_up
        self._end_process = end_process
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ernie-engine-watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        if self._thread is not threading.current_thread():
            self._thread.join(5)

    def _run(self) -> None:
        while not self._closing.wait(INTERVAL_SECONDS):
            self._serving.relay.restore()
            fault = self._serving.fault
            if fault is None:
                continue
            try:
                log.critical("the engine does not answer any more: %s; ending its process", fault)
                self._tell_all()
                self._give_up(fault)
                self._closing.wait(LAST_WORDS_SECONDS)
            finally:  # out of memory, say
                self._end_process()
            return
