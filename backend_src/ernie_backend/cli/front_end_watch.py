"""Whether a running front end answers, asked by a thread of its own, since that may take seconds; starts and ends nothing.

One whose event loop stands still, or whose process somebody has stopped, keeps its port: clients would wait for ever. One that is starting
does, too, and on a busy machine that takes long.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

LOOK_SECONDS = 1.0
ANSWER_SECONDS = 4.0
"""It asks tritonserver before it answers, for two seconds at most."""
FIRST_ANSWER_SECONDS = 60.0
"""From its start, which takes some 1.5 s of a core; a machine may have ten times the load that it can bear, and modules to read first."""
FURTHER_WORKER_SECONDS = 5.0
"""More for each worker but the first: all of them start at once."""
LONGEST_FIRST_ANSWER_SECONDS = 95.0
"""So that the default of five restarts is used up within the ten minutes in which they count."""
_SILENT_LOOKS = 4


def first_answer_seconds(workers: int) -> float:
    return min(FIRST_ANSWER_SECONDS + FURTHER_WORKER_SECONDS * (workers - 1), LONGEST_FIRST_ANSWER_SECONDS)


class FrontEndWatch:
    """Made when it is started. `close` before it is ended."""

    def __init__(self, answers: Callable[[], bool], first_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`answers`: whether it says anything at all within ANSWER_SECONDS. `first_seconds`: within which it must have done so once."""
        self._answers = answers
        self._first_seconds = first_seconds
        self._clock = clock
        self._started_at = clock()
        self._has_answered = False
        self._silent = 0
        self._closing = threading.Event()
        threading.Thread(target=self._run, name="front end watch", daemon=True).start()

    @property
    def fault(self) -> str | None:
        """Why it must be restarted: no first answer in time, or none four times in a row."""
        if not self._has_answered:
            late = self._clock() - self._started_at > self._first_seconds
            return f"The front end has not answered within {self._first_seconds:g} s of its start" if late else None
        return "The front end does not answer" if self._silent >= _SILENT_LOOKS else None

    def close(self) -> None:
        """Not waiting for a look that is under way."""
        self._closing.set()

    def _run(self) -> None:
        while not self._closing.wait(LOOK_SECONDS):
            answered = self._answers()
            self._silent = 0 if answered else self._silent + 1
            self._has_answered = self._has_answered or answered
