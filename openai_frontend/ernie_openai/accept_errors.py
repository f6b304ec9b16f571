"""A word, not a flood, when no more connections can be taken: asyncio says it 10,000 times a second."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

_ACCEPT_FAILED = "socket.accept() out of system resource"
_QUIET_SECONDS = 10.0


class AcceptErrors(logging.Filter):
    """Of the logger `asyncio`: one line every ten seconds, without a traceback."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._next = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        if not isinstance(record.msg, str) or not record.msg.startswith(_ACCEPT_FAILED):
            return True
        now = self._clock()
        if now < self._next:
            return False
        self._next = now + _QUIET_SECONDS
        why = record.exc_info[1] if record.exc_info else None
        record.msg, record.args, record.exc_info = f"No more connections can be taken: {getattr(why, 'strerror', None) or why}.", (), None
        return True
