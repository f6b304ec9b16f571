"""Which requests are let in, and which have outstayed their time; knows counts and times it is told, no clock of its own and no thread."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from ..config import EngineConfig
from ..errors import ErnieError, InvalidRequestError, OverloadedError, RequestTimeoutError
from ..protocol import GenerateRequest

OUT_OF_TIME = RequestTimeoutError(
    "The request did not end within its time limit (timeout or X-Request-Timeout). Give it more time, or ask for fewer tokens."
)
MAX_RETRY_AFTER_SECONDS = 60
_PACE_WINDOW_SECONDS = 30.0
_PACE_SPACING_SECONDS = 0.5


@dataclass(frozen=True)
class Load:
    """What an engine has on its hands."""

    num_sequences: int
    """Unfinished ones, running and waiting."""
    num_unstarted_requests: int
    """Those of which no token was ever computed."""
    num_unstarted_tokens: int
    """Of their prompts."""
    num_finished: int
    """Sequences, ever."""


@dataclass(frozen=True)
class Limits:
    """None: no limit."""

    max_concurrency: int
    max_num_seqs: int
    max_queued_requests: int | None = None
    max_queued_tokens: int | None = None
    max_waiting_seconds: float | None = None

    @classmethod
    def of(cls, config: EngineConfig) -> Limits:
        return cls(
            config.max_concurrency,
            config.max_num_seqs,
            config.max_queued_requests,
            config.max_queued_tokens,
            config.max_waiting_seconds,
        )


class Admission:
    """The door: `refusal` says who must stay outside, `expired` whose time is over. Times are seconds of one monotonic clock."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._deadlines = _Deadlines()
        self._queue_deadlines = _Deadlines()
        self._pace = _Pace()

    def refusal(self, request: GenerateRequest, load: Load, now: float) -> ErnieError | None:
        """Why the request cannot be taken, in the words of its sender; None if it can."""
        limits = self._limits
        self._pace.note(now, load.num_finished)
        if request.n > limits.max_concurrency:  # waiting would not help
            text = f"n is {request.n}, but this server gives at most {limits.max_concurrency} answers at once. Lower n."
            return InvalidRequestError(text, param="n")
        if request.deadline is not None and request.deadline <= now:
            return OUT_OF_TIME
        if load.num_sequences + request.n > limits.max_concurrency:
            return self._overloaded(f"The server is busy with {limits.max_concurrency} answers, its limit.", load, now)
        beyond = load.num_sequences - limits.max_num_seqs
        queued = min(load.num_unstarted_requests, max(0, beyond))  # the others have a seat, and take it in the next step
        most = limits.max_queued_requests
        if most is not None and load.num_sequences and beyond + request.n > 0 and queued >= most:
            return self._overloaded(f"{queued} requests are waiting, and no more may.", load, now)
        tokens, most = load.num_unstarted_tokens, limits.max_queued_tokens
        if most is not None and tokens and tokens + len(request.prompt_token_ids) > most:  # alone, even the longest prompt gets in
            return self._overloaded(f"Prompts of {tokens} tokens are waiting; with this one they would exceed {most}.", load, now)
        return None

    def accepted(self, request: GenerateRequest, now: float) -> None:
        if request.deadline is not None:
            self._deadlines.add(request.key, request.deadline)
        if self._limits.max_waiting_seconds is not None:
            self._queue_deadlines.add(request.key, now + self._limits.max_waiting_seconds)

    def expired(
        self, now: float, is_unfinished: Callable[[str], bool], is_unstarted: Callable[[str], bool]
    ) -> list[tuple[str, ErnieError]]:
        """Keys whose time is over, each once, and what to tell them. Costs two comparisons when there are none."""
        ended = [(key, OUT_OF_TIME) for key in self._deadlines.due(now, is_unfinished)]
        waited = [key for key in self._queue_deadlines.due(now, is_unstarted) if key not in dict(ended)]
        if not waited:
            return list(ended)
        text = (
            f"The request waited for {self._limits.max_waiting_seconds:g} s, the longest that this server lets one wait. Try again later."
        )
        return [*ended, *((key, RequestTimeoutError(text)) for key in waited)]

    def _overloaded(self, text: str, load: Load, now: float) -> OverloadedError:
        seconds = self._pace.seconds_for(max(1, load.num_sequences - self._limits.max_num_seqs), now, load.num_finished)
        return OverloadedError(f"{text} Try again in {seconds} s.", retry_after_seconds=seconds)


class _Deadlines:
    """Times with keys. Keys that no longer matter are thrown out when they are most of it."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, str]] = []
        self._compact_at = 64

    def add(self, key: str, at: float) -> None:
        heapq.heappush(self._heap, (at, key))

    def due(self, now: float, matters: Callable[[str], bool]) -> list[str]:
        """The keys whose time has come and that still matter; each is given once."""
        found = []
        while self._heap and self._heap[0][0] <= now:
            _, key = heapq.heappop(self._heap)
            if matters(key):
                found.append(key)
        if len(self._heap) > self._compact_at:
            self._heap = [entry for entry in self._heap if matters(entry[1])]
            heapq.heapify(self._heap)
            self._compact_at = max(64, 2 * len(self._heap))
        return found


class _Pace:
    """How fast sequences have ended of late, and with it how long a queue takes."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def note(self, now: float, num_finished: int) -> None:
        if self._seen and now - self._seen[-1][0] < _PACE_SPACING_SECONDS:
            return
        self._seen.append((now, num_finished))
        while now - self._seen[0][0] > _PACE_WINDOW_SECONDS and len(self._seen) > 1:
            self._seen.popleft()

    def seconds_for(self, num_sequences: int, now: float, num_finished: int) -> int:
        """Until so many more will have ended, 1 to `MAX_RETRY_AFTER_SECONDS`. Where none has ended yet, the time that was watched."""
        since, finished = self._seen[0] if self._seen else (now, num_finished)
        ended = num_finished - finished
        seconds = (now - since) * (num_sequences / ended if ended else 1)
        return max(1, min(MAX_RETRY_AFTER_SECONDS, math.ceil(seconds)))
