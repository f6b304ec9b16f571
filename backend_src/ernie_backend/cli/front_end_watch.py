"""Whether a running front end still answers, asked by a thread of its own, since that may take seconds; starts and ends nothing.

One whose event loop stands still, or whose process somebody has stopped, keeps its port: clients would wait for ever.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

LOOK_SECONDS = 1.0
ANSWER_SECONDS = 4.0
"""It asks tritonserver before it answers, for two seconds at most."""
_SILENT_LOOKS = 4


class FrontEndWatch:
    """Made when it has answered. `close` before it is ended."""

    def __init__(self, answers: Callable[[], bool]) -> None:
        """`answers`: whether it says anything at all within ANSWER_SECONDS."""
        self._answers = answers
        self._silent = 0
        self._closing = threading.Event()
        threading.Thread(target=self._run, name="front end watch", daemon=True).start()

    @property
    def is_silent(self) -> bool:
        """It has not answered four times in a row: it must be restarted."""
        return self._silent >= _SILENT_LOOKS

    def close(self) -> None:
        """Not waiting for a look that is under way."""
        self._closing.set()

    def _run(self) -> None:
        while not self._closing.wait(LOOK_SECONDS):
            self._silent = 0 if self._answers() else self._silent + 1
