"""A sign of life that `serve` can see: one file for each model's process, touched once a second. Knows nothing of what the process does.

Triton 2.51 calls a model ready whatever has become of its process. A process that is stopped, or whose interpreter is held up for good,
touches no file. One that knows that it cannot go on writes why into its file. One whose tritonserver has gone ends itself. Where no
supervisor has made the folder for it, there is no file and no thread.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Mapping
from pathlib import Path

from ..config import HEARTBEATS, EngineConfig

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 1.0
_TRITONSERVER = os.getppid()
"""Whose process this is, asked when the process begins: loading a model takes minutes, in which tritonserver may go."""


class Heartbeat:
    """Begins when it is made: at the end of `initialize`. `close` in `finalize`."""

    def __init__(self, settings: EngineConfig, args: Mapping[str, str]) -> None:
        """`args` is what Triton gave to `initialize`."""
        folder = Path(settings.runtime_dir or "", HEARTBEATS)
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        if settings.runtime_dir is None or not folder.is_dir():
            return
        self._path = folder / args["model_instance_name"]
        self._path.touch(mode=0o600)
        self._thread = threading.Thread(target=self._run, name="ernie-heartbeat", daemon=True)
        self._thread.start()

    def give_up(self, why: str) -> None:
        """This process will answer no more."""
        if self._thread is not None:
            with contextlib.suppress(OSError):
                self._path.write_text(why, encoding="utf-8")

    def close(self) -> None:
        self._closing.set()
        if self._thread is not None:
            self._thread.join(5)

    def _run(self) -> None:
        is_told = False
        while not self._closing.wait(INTERVAL_SECONDS):
            if os.getppid() != _TRITONSERVER:  # and so has whoever watched it: what waits for Triton would wait for ever
                log.critical("tritonserver has gone; ending its process")
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                os.utime(self._path)
            except OSError as error:  # the folder went with the supervisor
                if not is_told:
                    log.warning("no sign of life can be given: %s", error)
                is_told = True
