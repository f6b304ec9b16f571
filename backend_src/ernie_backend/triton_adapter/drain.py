"""When the engine is told to drain, the ensemble is unloaded: Triton is not ready from then on, and refuses what is new.

Requests under way go on. Needs a tritonserver that was started with `--model-control-mode=explicit`, as `serve` does; no client can do the
same, because that API is locked. (Triton's own SIGTERM would not do: it refuses running requests their next step.)
"""

from __future__ import annotations

import logging
import threading
from typing import Any

log = logging.getLogger(__name__)

ENSEMBLE = "ernie"


class DrainWatch:
    """Waits for `draining` on a thread of its own."""

    def __init__(self, pb_utils: Any, draining: threading.Event) -> None:
        self._pb = pb_utils
        self._draining = draining
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
