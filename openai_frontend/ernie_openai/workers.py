"""The front end's worker processes: uvicorn's supervisor, which replaces one that has died or hangs, and tells of it; knows no HTTP."""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import os
import signal
import time

from uvicorn.supervisors import Multiprocess
from uvicorn.supervisors.multiprocess import Process

log = logging.getLogger(__name__)

ANSWER_SECONDS = 15
"""Within which a worker must say that it lives. On a busy machine one that is starting needs more than uvicorn's 5."""
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with_parent() -> None:
    """In a worker: SIGTERM when its parent has died. Else it would keep the port, with nobody to end it or to tell it of new keys."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent.pid:  # before that
        signal.raise_signal(signal.SIGTERM)


class Workers(Multiprocess):
    """`run` returns when a signal has ended them all."""

    _starting: dict[Process, float]
    """Those that take another's place, until they are ready → when that one was missed."""

    def run(self) -> None:
        self._starting = {}
        log.setLevel(logging.INFO)
        super().run()

    def keep_subprocess_alive(self) -> None:
        before = [(process, process.process.is_alive()) for process in self.processes]
        missed_at = time.monotonic()
        super().keep_subprocess_alive()
        for (old, did_run), new in zip(before, self.processes, strict=True):
            if new is not old:
                log.error("A worker process %s; starting another …", "did not respond" if did_run else f"has died ({_end_of(old)})")
                self._starting[new] = self._starting.pop(old, missed_at)
        for process in [process for process in self._starting if process.is_ready(self.config.timeout_worker_healthcheck)]:
            log.info("The worker process is ready again after %.1f s.", time.monotonic() - self._starting.pop(process))


def _end_of(process: Process) -> str:
    code = process.exitcode or 0
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
