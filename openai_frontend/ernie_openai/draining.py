"""The end of a front end: new requests are refused with words while those under way finish. Knows no route but by its path.

Under `ernie-triton serve` the engine is drained before the front end is told to stop: then nothing is under way here.
"""

from __future__ import annotations

import asyncio
import signal
import time
from types import FrameType

from starlette.types import ASGIApp, Receive, Scope, Send

from ernie_backend.errors import UnavailableError

from .errors import error_response

END_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_REFUSED_PATHS = ("/health", "/ping", "/v1/chat/completions", "/v1/completions")
"""The rest answers to the last: what runs can be watched and aborted."""
_POLL_SECONDS = 0.05
_SAME_SIGNAL_SECONDS = 2.0
"""The parent of the workers looks for signals every half a second, later if it is busy."""
STOPPING = UnavailableError(
    "The server is shutting down. Send the request to another server, or again when it is back.", retry_after_seconds=5
)


class Drain:
    """Of one process. `num_requests`: under way, refused ones not counted."""

    def __init__(self) -> None:
        self.has_begun = False
        self.num_requests = 0
        self._began_at = 0.0

    def handle_signals(self, grace_seconds: float) -> None:
        """Instead of the HTTP server, which would close its port at once: it hears of a signal when nothing is under way any more, or
        `grace_seconds` later, or with a second signal. (Not one at once: a terminal's Ctrl-C reaches every worker, and their parent sends
        them SIGTERM besides.) To be called in its event loop."""
        loop = asyncio.get_running_loop()
        before = {number: signal.getsignal(number) for number in END_SIGNALS}

        def pass_on(number: int) -> None:
            handler = before[signal.Signals(number)]
            if callable(handler):
                handler(number, None)

        async def drain(number: int) -> None:
            deadline = time.monotonic() + grace_seconds
            while self.num_requests and time.monotonic() < deadline:
                await asyncio.sleep(_POLL_SECONDS)
            pass_on(number)

        def on_signal(number: int, _: FrameType | None) -> None:
            if self.has_begun:
                if time.monotonic() > self._began_at + _SAME_SIGNAL_SECONDS:
                    pass_on(number)
                return
            self.has_begun, self._began_at = True, time.monotonic()
            loop.call_soon_threadsafe(lambda: tasks.append(loop.create_task(drain(number))))

        tasks: list[asyncio.Task[None]] = []  # the loop itself would forget it
        for number in END_SIGNALS:
            signal.signal(number, on_signal)


class DrainMiddleware:
    """Refuses what is new once the drain has begun, and counts the rest."""

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        self.app = app
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if self._drain.has_begun and scope["path"] in _REFUSED_PATHS:
            await error_response(STOPPING)(scope, receive, send)
            return
        self._drain.num_requests += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self._drain.num_requests -= 1
