"""Preprocess' requests that wait for images, videos or a grammar: their pulses, and their early end. Knows no pb_utils and no media.

Each has one answer, by whoever comes first: its work, an abort, or the end of its time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ..abort_signal import AbortSignal, aborted
from ..errors import ErnieError, OverloadedError, RequestTimeoutError
from ..relay import RelayReceiver
from .waiting import Pulse

log = logging.getLogger(__name__)

MAX_WAITERS = 1024
"""In one process. A new grammar may take a second of a core, and so the last one's wait is bounded, as that for pictures is
(`media/pool.py`)."""
PULSE_SECONDS = 1.0
"""So long may it take until a hang-up is noticed. Each pulse costs two hops, with one that is shown three."""
PULSES_AT_ONCE = 8
PULSE_PAUSE_SECONDS = 0.05
"""Between so many of them: 160 a second at most, for each of preprocess' processes."""

OUT_OF_TIME = RequestTimeoutError(
    "The request's images, videos or grammar were not ready within its time limit (timeout or X-Request-Timeout). Give it more time."
)


@dataclass(eq=False)
class Waiter:
    """A request on its way through the room."""

    key: str
    answer_id: str
    tenant: str
    is_streamed: bool
    """Empty responses may be shown to its client."""
    send: Callable[[Pulse], None]
    """The pulse, to the engine. May raise if the way is closed."""
    refuse: Callable[[ErnieError], None]
    """Answer it."""
    deadline: float | None = None
    """Of `time.monotonic`."""
    signal: AbortSignal = field(default_factory=AbortSignal)
    """What works for it hangs on that."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    """Held while a pulse is sent: nothing comes behind the answer."""
    has_left: bool = False
    pulsed_at: float = 0.0

    def leave(self) -> bool:
        """True for the one caller who may answer it."""
        with self.lock:
            was_here, self.has_left = not self.has_left, True
        return was_here


class WaitingRoom:
    """For several threads at once. `close` when done; who is in it must have been answered by then."""

    def __init__(self, folder: str | None, name: str) -> None:
        """`folder`, `name`: of the socket by which the engine says who shall wait no more."""
        self._waiters: dict[str, Waiter] = {}
        self._lock = threading.Lock()
        self._is_closing = False
        self._has_waiters = threading.Event()
        self._receiver = RelayReceiver(self, folder, name)
        self._thread = threading.Thread(target=self._run, name="ernie-pulses", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._waiters)

    def enter(self, waiter: Waiter) -> None:
        """From now on the engine knows of it: whatever asks the engine after this call finds it. `OverloadedError` if too many wait."""
        with self._lock:
            if len(self._waiters) >= MAX_WAITERS:
                raise OverloadedError("Too many requests wait for their images, videos or grammars. Try again in a moment.")
            self._waiters[waiter.key] = waiter
            self._has_waiters.set()
        self._pulse(waiter, is_shown=False)

    def leave(self, waiter: Waiter) -> bool:
        """True for the one caller who may answer it."""
        with self._lock:
            self._waiters.pop(waiter.key, None)
        return waiter.leave()

    def cancelled(self, key: str) -> None:
        """The engine's word: it shall wait no more."""
        with self._lock:
            waiter = self._waiters.get(key)
        if waiter is not None:
            self._end(waiter, aborted())

    def close(self) -> None:
        with self._lock:  # or the thread might clear the event behind us
            self._is_closing = True
            self._has_waiters.set()
        self._receiver.close()
        self._thread.join(5)

    def _run(self) -> None:
        restored_at = 0.0
        while self._has_waiters.wait() and not self._is_closing:
            time.sleep(PULSE_PAUSE_SECONDS)
            now = time.monotonic()
            if now - restored_at >= PULSE_SECONDS:
                self._receiver.restore()
                restored_at = now
            with self._lock:
                late = [waiter for waiter in self._waiters.values() if waiter.deadline is not None and now >= waiter.deadline]
                due = [waiter for waiter in self._waiters.values() if now - waiter.pulsed_at >= PULSE_SECONDS]
                if not self._waiters and not self._is_closing:
                    self._has_waiters.clear()
            for waiter in late:
                self._end(waiter, OUT_OF_TIME)
            for waiter in sorted(due, key=lambda waiter: waiter.pulsed_at)[:PULSES_AT_ONCE]:
                self._pulse(waiter, is_shown=waiter.is_streamed)

    def _end(self, waiter: Waiter, error: ErnieError) -> None:
        """The answer is not held up by what is still at work."""
        if not self.leave(waiter):
            return
        try:
            waiter.refuse(error)
        except Exception:
            log.exception("A request that shall wait no more could not be answered.")
        waiter.signal.set()

    def _pulse(self, waiter: Waiter, *, is_shown: bool) -> None:
        pulse = Pulse(waiter.key, waiter.answer_id, waiter.tenant, self._receiver.path, is_shown)
        with waiter.lock:
            if waiter.has_left:
                return
            waiter.pulsed_at = time.monotonic()
            try:
                waiter.send(pulse)
            except Exception:  # no shared memory left, as a rule; the next one may pass
                log.warning("A pulse could not be sent.", exc_info=True)
