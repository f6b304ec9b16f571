"""How often and how soon something may be restarted, and how the front end hears of it meanwhile; starts nothing."""

from __future__ import annotations

import collections
import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

WINDOW_SECONDS = 600.0
_LONGEST_DELAY_SECONDS = 16.0


class RestartBudget:
    """So many restarts within ten minutes: one at once; while they do not help, the others after 1, 2, 4 … 16 s."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._times: collections.deque[float] = collections.deque()
        self._in_vain = 0

    def helped(self) -> None:
        """What was restarted works again: the next restart need not wait."""
        self._in_vain = 0

    def next_delay(self) -> float | None:
        """Seconds to wait before the next restart, which is booked; None: there were too many of late."""
        now = self._clock()
        while self._times and self._times[0] < now - WINDOW_SECONDS:
            self._times.popleft()
        if len(self._times) >= self._most:
            return None
        self._times.append(now)
        self._in_vain += 1
        return 0.0 if self._in_vain == 1 else min(2.0 ** (self._in_vain - 2), _LONGEST_DELAY_SECONDS)


class Outage:
    """A file that says why no request can be answered now; while there is none, all is well. The front end reads it for /health."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, why: str) -> None:
        """`why`: a sentence for users. On a full disk the file stays empty; where there can be none, nobody is told, and nobody stopped."""
        new = self.path.with_suffix(".new")
        with contextlib.suppress(OSError):
            new.write_text(why, encoding="utf-8")
        with contextlib.suppress(OSError):
            os.rename(new, self.path)  # nobody reads half of it

    def end(self) -> None:
        self.path.unlink(missing_ok=True)
