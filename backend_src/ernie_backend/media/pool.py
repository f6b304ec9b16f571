"""Loads the images and videos of many requests at once, each item on a thread of its own; knows neither prompts nor Triton.

A hung host holds a thread until its time limit, so threads are many, what waits for one is bounded, and requests without media never come
here at all. What needs no host (`data:` and `file:` URLs) has threads of its own: no host can make it wait. Nor can one take all those of
the others (`lane.py`).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial

from ..abort_signal import NEVER, AbortSignal
from ..errors import EngineError, ErnieError, OverloadedError, RequestAbortedError
from ..media_fields import MediaPart, ProcessorKwargs
from .fetch import host_of
from .lane import Lane
from .loader import MediaLoader
from .network import stopping
from .patches import LoadedMedia
from .usage import MediaUsage

log = logging.getLogger(__name__)

THREADS = 32
"""Of each lane."""
MAX_ITEMS = 512
"""Under way and waiting, in each lane. At 32 MiB for the largest image, threads bound the memory; this bounds how long the last one
waits."""

Done = Callable[[Sequence[LoadedMedia] | ErnieError], None]


class MediaPool:
    """Calls back on its own threads. `close` when done: what is under way ends with an error."""

    def __init__(self, loader: MediaLoader, *, threads: int = THREADS, max_items: int = MAX_ITEMS) -> None:
        self._loader = loader
        self._lock = threading.Lock()
        self._web, self._local = (Lane(name, threads, max_items) for name in ("ernie-media-web", "ernie-media-local"))

    @property
    def usage(self) -> MediaUsage:
        """What loading has cost so far."""
        return self._loader.usage

    def load(self, parts: Sequence[MediaPart], settings: ProcessorKwargs, done: Done, signal: AbortSignal = NEVER) -> None:
        """`done` is called once: with the loaded items in order, or with the error of the first one at fault, as soon as it is known which
        that is. When `signal` is set, no item of them begins any more, and what is under way ends soon; so do those behind an error.

        `OverloadedError` at once if too much waits already.
        """
        lanes = [self._local if host_of(part.url) is None else self._web for part in parts]
        with self._lock:
            for lane in (self._web, self._local):
                if lane.num_items + lanes.count(lane) > lane.max_items:
                    raise OverloadedError("Too many images and videos are being fetched. Try again in a moment.")
            for lane in lanes:
                lane.num_items += 1
        request = _Request(parts, done)
        signal.add(request.rest.set)
        for i, (part, lane) in enumerate(zip(parts, lanes, strict=True)):
            future = lane.submit(host_of(part.url), partial(self._loader.load, part, settings, request.rest))
            future.add_done_callback(partial(self._finished, request, i, lane))
            request.rest.add(future.cancel)

    def close(self) -> None:
        self._loader.close()
        for lane in (self._web, self._local):
            lane.close()

    def _finished(self, request: _Request, index: int, lane: Lane, future: Future[LoadedMedia]) -> None:
        with self._lock:
            lane.num_items -= 1
        is_known = request.finished(index, _outcome(future))
        if is_known and not future.cancelled():  # else it is `rest` that cancels it
            request.rest.set()


class _Request:
    """The items of one request, until it is known what becomes of it."""

    def __init__(self, parts: Sequence[MediaPart], done: Done) -> None:
        self.rest = AbortSignal()
        """Set when nobody waits for its items any more."""
        self._outcomes: list[LoadedMedia | ErnieError | None] = [None] * len(parts)
        self._done: Done | None = done
        self._lock = threading.Lock()

    def finished(self, index: int, outcome: LoadedMedia | ErnieError) -> bool:
        """Whether this settled it, and `done` has been called."""
        with self._lock:
            self._outcomes[index] = outcome
            error = next((outcome for outcome in self._outcomes if not isinstance(outcome, LoadedMedia)), None)
            is_settled = None not in self._outcomes or (error is not None and not isinstance(error, RequestAbortedError))
            done = self._done
            if done is None or not is_settled:  # of an aborted one nobody waits for the error, but perhaps for its threads
                return False
            self._done = None
            loaded = [outcome for outcome in self._outcomes if isinstance(outcome, LoadedMedia)]
        done(error or loaded)
        return True


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
