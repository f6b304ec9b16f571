"""Loads the images and videos of many requests at once, each item on a thread of its own; knows neither prompts nor Triton.

A hung host holds a thread until its time limit, so threads are many, what waits for one is bounded, and requests without media never come
here at all.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from ..abort_signal import NEVER, AbortSignal
from ..errors import EngineError, ErnieError, OverloadedError
from ..media_fields import MediaPart, ProcessorKwargs
from .loader import MediaLoader
from .network import stopping
from .patches import LoadedMedia
from .usage import MediaUsage

log = logging.getLogger(__name__)

THREADS = 32
MAX_ITEMS = 512
"""Under way and waiting. At 32 MiB for the largest image, threads bound the memory; this bounds how long the last one waits."""

Done = Callable[[Sequence[LoadedMedia] | ErnieError], None]


class MediaPool:
    """Calls back on its own threads. `close` when done: what is under way ends with an error."""

    def __init__(self, loader: MediaLoader, *, threads: int = THREADS, max_items: int = MAX_ITEMS) -> None:
        self._loader = loader
        self._executor = ThreadPoolExecutor(threads, "ernie-media")
        self._max_items = max_items
        self._lock = threading.Lock()
        self._num_items = 0

    @property
    def usage(self) -> MediaUsage:
        """What loading has cost so far."""
        return self._loader.usage

    def load(self, parts: Sequence[MediaPart], settings: ProcessorKwargs, done: Done, signal: AbortSignal = NEVER) -> None:
        """`done` is called once: with the loaded items in order, or with the error of the first one at fault. When `signal` is set, no item
        of them begins any more, and what is under way ends soon.

        `OverloadedError` at once if too much waits already.
        """
        with self._lock:
            if self._num_items + len(parts) > self._max_items:
                raise OverloadedError("Too many images and videos are being fetched. Try again in a moment.")
            self._num_items += len(parts)
        request = _Request(parts, done)
        for i, part in enumerate(parts):
            future = self._executor.submit(self._loader.load, part, settings, signal)
            future.add_done_callback(partial(self._finished, request, i))
            signal.add(future.cancel)

    def close(self) -> None:
        self._loader.close()
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _finished(self, request: _Request, index: int, future: Future[LoadedMedia]) -> None:
        with self._lock:
            self._num_items -= 1
        request.finished(index, _outcome(future))


class _Request:
    """The items of one request, until the last one is there."""

    def __init__(self, parts: Sequence[MediaPart], done: Done) -> None:
        self._outcomes: list[LoadedMedia | ErnieError | None] = [None] * len(parts)
        self._missing = len(parts)
        self._done = done
        self._lock = threading.Lock()

    def finished(self, index: int, outcome: LoadedMedia | ErnieError) -> None:
        with self._lock:
            self._outcomes[index] = outcome
            self._missing -= 1
            if self._missing:
                return
        error = next((outcome for outcome in self._outcomes if isinstance(outcome, ErnieError)), None)
        self._done(error or [outcome for outcome in self._outcomes if isinstance(outcome, LoadedMedia)])


def _outcome(future: Future[LoadedMedia]) -> LoadedMedia | ErnieError:
    if future.cancelled():
        return stopping()
    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, ErnieError):
        return error
    log.error("An image or video could not be loaded.", exc_info=error)
    return EngineError("The server could not load an image or video of this request. See the server's log.")
