"""Which tokens leave when: the window, merging, fairness. Runs on a thread of its own; knows no engine state, no text and no tensors.

One response of the engine costs a blocking hop of 45–360 µs, so it is never sent from the engine's thread. Of all requests together at most
`window_responses` may be under way to postprocess, which is what limits the path; the choices that have more to say wait in a ring, and
what comes for them meanwhile leaves together. So a token leaves at once while there is room, and a busy path costs larger pieces, not a
queue. A choice's first and its last response pass the ring and the window. The last one of a request carries the final flag.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from .core.outputs import StepOutput
from .protocol import FinishReason, GenerateEvent, Timings, TokenLogprobs

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 1.0
"""A streamed request that had nothing to send for so long sends an empty response: only by a response does postprocess, and with it the
engine, learn that the client of a queued request has gone."""

RESPONSES_PER_CORE_SECOND = 1000
"""What one core carries from here to the client and still has time for the engine: 0.45 to 0.6 ms each, the client included. Without it
postprocess' acknowledgements would let a small machine send more than its front end reads: 2.2 s late at 256 streams on two cores."""
PACE_BURST = 32

RESPONSES_PER_PIECE_SIZE = 1024
"""With so many responses the least size of a choice's pieces grows by a token: 2048 tokens may leave one by one, the last of 128 Ki by 16.
tritonserver keeps what a gRPC client does not read, 4.4 kB a response, and tells nobody: 70 MB for such an answer, and not 560."""

HEARTBEATS_AT_ONCE = 8
HEARTBEAT_PAUSE_SECONDS = 0.05
"""Between so many of them, so that a long queue costs a busy path little: 160 a second at most."""

STALL_SECONDS = 2.0
"""Postprocess acknowledges within milliseconds. When the window has been shut for so long, the acknowledgements are taken as lost."""


@dataclass(frozen=True)
class Response:
    """What leaves in one hop: one choice's new tokens."""

    key: str
    index: int
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...]
    finish_reason: FinishReason | None
    num_cached_tokens: int
    error: str | None
    is_first: bool
    """The choice's first response."""
    is_final: bool
    """The request's last response."""
    timings: Timings | None = None
    """With the finish reason."""


class ResponseSink(Protocol):
    """Where a request's responses go; may block, may raise if the way is closed."""

    def send(self, response: Response) -> None: ...


StopWatch = Callable[[int, tuple[int, ...]], bool]
"""(index, new token ids) → whether a stop string is complete; for answers that are not streamed."""


@dataclass(eq=False)
class _Choice:
    stream: _Stream = field(repr=False)
    index: int
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    last: GenerateEvent | None = None
    """The event with the finish reason, once it came."""
    num_sent: int = 0
    has_spoken: bool = False
    """Its first token left."""
    is_sent: bool = False
    """The last response left."""
    is_waiting: bool = False
    """It stands in the ring."""
    is_urgent: bool = False
    """It stands before the ring."""


@dataclass(eq=False)
class _Stream:
    key: str
    sink: ResponseSink
    streamed: bool
    stop_watch: StopWatch | None
    request_id: str
    choices: list[_Choice] = field(default_factory=list)
    num_cached_tokens: int = 0
    last_sent: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class _Register:
    stream: _Stream


@dataclass(frozen=True)
class _Consumed:
    num_responses: int


class _Close:
    pass


class Delivery:
    """Carries `StepOutput`s to the sinks of their requests."""

    def __init__(
        self,
        window_responses: int,
        *,
        abort: Callable[[str], None],
        stop: Callable[[str, int], None],
        stream_interval_tokens: int | None = None,
        max_responses_per_second: float = math.inf,
    ) -> None:
        """`abort(key)` is called when a sink fails, `stop(key, index)` when a stop watch fires; both must return at once.

        `stream_interval_tokens`: behind a choice's first token, pieces of exactly so many (the last may be shorter). None: whatever waits.
        `max_responses_per_second`: out of the ring, in the long run. Who stands behind postprocess acknowledges nothing and must keep up.
        """
        self._pace_seconds = 0.0 if stream_interval_tokens is not None else 1 / max_responses_per_second
        self._ring_is_due_at = 0.0
        self._window: float = window_responses
        self._interval = stream_interval_tokens
        self._abort = abort
        self._stop = stop
        self._inbox: queue.SimpleQueue[StepOutput | _Register | _Consumed | _Close] = queue.SimpleQueue()
        self._streams: dict[str, _Stream] = {}
        self._urgent: deque[_Choice] = deque()
        self._ring: deque[_Choice] = deque()
        self._num_under_way = 0
        self._last_consumed = 0.0
        self._next_watch = 0.0
        self._thread = threading.Thread(target=self._run, name="ernie-delivery", daemon=True)

    # -- from any thread -----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    def register(
        self, key: str, sink: ResponseSink, *, n: int, streamed: bool, stop_watch: StopWatch | None = None, request_id: str = ""
    ) -> None:
        """Before the request is submitted to the engine. `request_id`: what logs call it."""
        stream = _Stream(key, sink, streamed, stop_watch, request_id)
        stream.choices = [_Choice(stream, index) for index in range(n)]
        self._inbox.put(_Register(stream))

    def push(self, output: StepOutput) -> None:
        self._inbox.put(output)

    def consumed(self, num_responses: int) -> None:
        """Postprocess has taken so many more responses, whosever they were."""
        self._inbox.put(_Consumed(num_responses))

    def close(self, timeout_seconds: float = 10.0) -> None:
        """Send what is there, end the thread and wait for it."""
        self._inbox.put(_Close())
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def num_streams(self) -> int:
        """Requests with an answer under way."""
        return len(self._streams)

    @property
    def is_idle(self) -> bool:
        """Nothing is left to send, and what was sent has been acknowledged (or never will be)."""
        stalled = time.monotonic() - self._last_consumed > STALL_SECONDS
        return not self._streams and (self._num_under_way == 0 or stalled)

    # -- on the delivery thread ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while self._turn():
            pass

    def _turn(self) -> bool:
        """Take what has come and send one response, if one may leave; False when asked to close.

        One, because sending takes as long as other tokens need to arrive: those of the same choice join it, first ones go before the ring.
        """
        closing = self._read_inbox()
        if closing:
            self._window, self._ring_is_due_at, self._pace_seconds = math.inf, 0.0, 0.0
        while (choice := self._next()) is not None:
            self._send_guarded(choice)
            if not closing:
                break
        self._watch()
        return not closing

    def _send_guarded(self, choice: _Choice) -> None:
        """Send. Whatever goes wrong with one request ends that request, not the thread."""
        try:
            self._send(choice)
        except Exception:
            self._give_up(choice.stream)

    def _give_up(self, stream: _Stream) -> None:
        log.exception("the responses of a request could not be delivered; it is aborted", extra={"request_id": stream.request_id})
        self._streams.pop(stream.key, None)
        for choice in stream.choices:
            choice.is_sent = True
        self._abort(stream.key)

    def _read_inbox(self) -> bool:
        """Take all that is there, waiting for it if nothing may leave; True when asked to close."""
        try:
            message = self._inbox.get_nowait() if self._may_send else self._inbox.get(timeout=self._patience())
            while True:
                if isinstance(message, _Close):
                    return True
                self._take(message)
                message = self._inbox.get_nowait()
        except queue.Empty:
            return False

    def _take(self, message: StepOutput | _Register | _Consumed) -> None:
        if isinstance(message, StepOutput):
            for event in message.events:  # hundreds a step: the hot loop
                try:
                    self._collect(event)
                except Exception:
                    self._give_up(self._streams[event.key])
        elif isinstance(message, _Consumed):
            self._num_under_way = max(0, self._num_under_way - message.num_responses)
            self._last_consumed = time.monotonic()
        else:
            assert message.stream.key not in self._streams, "keys are minted once"
            self._streams[message.stream.key] = message.stream

    def _collect(self, event: GenerateEvent) -> None:
        stream = self._streams.get(event.key)
        if stream is None:
            return
        choice = stream.choices[event.index]
        choice.token_ids += event.token_ids
        if event.logprobs:
            choice.logprobs += event.logprobs
        if event.finish_reason is not None:
            choice.last = event
        elif stream.stop_watch is not None and stream.stop_watch(event.index, event.token_ids):
            self._stop(event.key, event.index)
        if not choice.is_waiting or choice.last is not None:
            stream.num_cached_tokens = event.num_cached_tokens
            self._queue(choice)

    def _queue(self, choice: _Choice) -> None:
        """Where the choice stands from now on: nowhere, in the ring, or before it."""
        if not self._has_piece(choice):
            return
        is_last = choice.last is not None and (self._interval is None or len(choice.token_ids) <= self._interval)
        if is_last or not choice.has_spoken:
            if not choice.is_urgent:
                choice.is_urgent = True
                self._urgent.append(choice)
        elif not choice.is_waiting:
            choice.is_waiting = True
            self._ring.append(choice)

    def _has_piece(self, choice: _Choice) -> bool:
        if choice.is_sent or choice.last is not None:
            return not choice.is_sent
        least = self._interval if self._interval is not None and choice.has_spoken else 1
        if self._interval is None:
            least = max(least, choice.num_sent // RESPONSES_PER_PIECE_SIZE)
        return choice.stream.streamed and len(choice.token_ids) >= least

    @property
    def _may_send(self) -> bool:
        return bool(self._urgent) or (bool(self._ring) and self._num_under_way < self._window and time.monotonic() >= self._ring_is_due_at)

    def _patience(self) -> float | None:
        """How long nothing needs to be done unless a message comes."""
        if not self._streams:
            return None
        until = min(self._next_watch, self._ring_is_due_at) if self._ring and self._num_under_way < self._window else self._next_watch
        return max(0.0, until - time.monotonic())

    def _next(self) -> _Choice | None:
        """Whose turn it is."""
        while self._urgent:
            choice = self._urgent.popleft()
            choice.is_urgent = False
            if self._has_piece(choice):
                return choice
        now = time.monotonic()
        while self._ring and self._num_under_way < self._window and now >= self._ring_is_due_at:
            choice = self._ring.popleft()
            choice.is_waiting = False
            if self._has_piece(choice):
                # As many as the window holds may leave in one go: what a step of a few streams brings.
                self._ring_is_due_at = max(self._ring_is_due_at, now - PACE_BURST * self._pace_seconds) + self._pace_seconds
                return choice
        return None

    def _send(self, choice: _Choice) -> None:
        stream = choice.stream
        count = len(choice.token_ids)
        if self._interval is not None and stream.streamed:
            count = min(count, self._interval)
        last = choice.last if count == len(choice.token_ids) else None
        choice.is_sent = last is not None
        response = Response(
            key=stream.key,
            index=choice.index,
            token_ids=tuple(choice.token_ids[:count]),
            logprobs=tuple(choice.logprobs[:count]),
            finish_reason=last.finish_reason if last else None,
            num_cached_tokens=stream.num_cached_tokens,
            error=last.error if last else None,
            is_first=choice.num_sent == 0,
            is_final=last is not None and all(c.is_sent for c in stream.choices),
            timings=last.timings if last else None,
        )
        choice.num_sent += 1
        choice.has_spoken |= count > 0
        del choice.token_ids[:count], choice.logprobs[:count]
        stream.last_sent = time.monotonic()
        if self._num_under_way == 0:
            self._last_consumed = stream.last_sent
        self._num_under_way += 1
        if response.is_final:
            del self._streams[stream.key]
        elif not choice.is_waiting:
            self._queue(choice)
        stream.sink.send(response)

    def _watch(self) -> None:
        """Heartbeats, and acknowledgements that seem lost; a few times a second at most."""
        now = time.monotonic()
        if now < self._next_watch:
            return
        self._next_watch = now + HEARTBEAT_SECONDS / 2
        if self._num_under_way >= self._window and now - self._last_consumed > STALL_SECONDS:
            self._num_under_way = 0
        silent = [s for s in self._streams.values() if s.streamed and now - s.last_sent > HEARTBEAT_SECONDS]
        for stream in silent[:HEARTBEATS_AT_ONCE]:
            choice = next(choice for choice in stream.choices if not choice.is_sent)
            self._send_guarded(choice)
        if len(silent) > HEARTBEATS_AT_ONCE:
            self._next_watch = now + HEARTBEAT_PAUSE_SECONDS
