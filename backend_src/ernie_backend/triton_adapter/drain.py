"""When the engine is told to drain, the ensemble is unloaded: Triton is not ready from then on, and refuses what is new.

Requests under way go on; a file tells `serve` when the last of them has left. Needs a tritonserver that was started with
`--model-control-mode=explicit`, as `serve` does; no client can do the same, because that API is locked. (Triton's own SIGTERM would not do:
it refuses running requests their next step.)

When the last answer has left, and the ensemble is gone, Triton 2.51 calls itself, but not the model, ready again until it ends: what has
been unloaded does not count. A model that fails to load would keep it from that, but its Python backend reads the error's text when that
may be freed already: in one stop of six an answer was cut short, once by a segmentation fault.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..config import DRAINED

log = logging.getLogger(__name__)

ENSEMBLE = "ernie"
_POLL_SECONDS = 0.02


class DrainWatch:
    """Waits for `draining`, then until `is_idle()`, on a thread of its own. `folder`: where to say so; None: nobody asks."""

    def __init__(self, pb_utils: Any, draining: threading.Event, is_idle: Callable[[], bool], folder: str | None) -> None:
        self._pb = pb_utils
        self._draining = draining
        self._is_idle = is_idle
        self._folder = folder
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="ernie-drain", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing = True
        self._draining.set()
        self._thread.join(5)

    def _run(self) -> None:
        self._draining.wait()
        if self._closing:
            return
        try:
            self._pb.unload_model(ENSEMBLE)
        except Exception:
            log.warning("Triton still says that it is ready: it was started without --model-control-mode=explicit")
        while not self._is_idle():
            if self._closing:
                return
            time.sleep(_POLL_SECONDS)
        if self._folder is not None:
            Path(self._folder, DRAINED).touch(mode=0o600)
