"""Which tokens leave when: the window, merging, fairness. Runs on a thread of its own; knows no engine state, no text and no tensors.

One response of the engine costs a blocking hop of 45–360 µs, so it is never sent from the engine's thread. Of each request at most
`window_responses` may be under way to postprocess; tokens that come meanwhile wait here and leave together. The last response of a request
leaves whatever the window says, and carries the final flag.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from .core.outputs import StepOutput
from .protocol import FinishReason, GenerateEvent, Timings, TokenLogprobs

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 1.0
"""A streamed request that had nothing to send for so long sends an empty response: only by a response does postprocess, and with it the
engine, learn that the client of a queued request has gone."""

STALL_SECONDS = 10.0
"""Postprocess acknowledges within milliseconds, however slow the client. After this long the acknowledgements are taken as lost."""


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
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    last: GenerateEvent | None = None
    """The event with the finish reason, once it came."""
    num_sent: int = 0
    is_sent: bool = False
    """The last response left."""


@dataclass(eq=False)
class _Stream:
    sink: ResponseSink
    choices: list[_Choice]
    streamed: bool
    stop_watch: StopWatch | None
    num_sent: int = 0
    num_consumed: int = 0
    num_cached_tokens: int = 0
    last_progress: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class _Register:
    key: str
    stream: _Stream


@dataclass(frozen=True)
class _Consumed:
    key: str
    total: int


class _Close:
    pass


class Delivery:
    """Carries `StepOutput`s to the sinks of their requests."""

    def __init__(self, window_responses: int, *, abort: Callable[[str], None], stop: Callable[[str, int], None]) -> None:
        """`abort(key)` is called when a sink fails, `stop(key, index)` when a stop watch fires; both must return at once."""
        self._window = window_responses
        self._abort = abort
        self._stop = stop
        self._inbox: queue.SimpleQueue[StepOutput | _Register | _Consumed | _Close] = queue.SimpleQueue()
        self._streams: dict[str, _Stream] = {}
        self._next_watch = 0.0
        self._thread = threading.Thread(target=self._run, name="ernie-delivery", daemon=True)

    # -- from any thread -----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    def register(self, key: str, sink: ResponseSink, *, n: int, streamed: bool, stop_watch: StopWatch | None = None) -> None:
        """Before the request is submitted to the engine."""
        self._inbox.put(_Register(key, _Stream(sink, [_Choice() for _ in range(n)], streamed, stop_watch)))

    def push(self, output: StepOutput) -> None:
        self._inbox.put(output)

    def consumed(self, key: str, total_responses: int) -> None:
        self._inbox.put(_Consumed(key, total_responses))

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

    # -- on the delivery thread ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while self._turn():
            pass

    def _turn(self) -> bool:
        """Take what has come and send what may leave; False when asked to close."""
        touched: dict[str, None] = {}
        closing = self._read_inbox(touched)
        for key in self._in_order(touched):
            self._guarded(key, self._flush, key)
        if not closing:
            self._watch_streams()
        return not closing

    def _guarded(self, key: str, action: Callable[..., None], *arguments: Any) -> None:
        """Whatever goes wrong with one request ends that request, not the thread."""
        try:
            action(*arguments)
        except Exception:
            self._give_up(key)

    def _give_up(self, key: str) -> None:
        log.exception("responses of %s could not be delivered; the request is aborted", key)
        self._streams.pop(key, None)
        self._abort(key)

    def _read_inbox(self, touched: dict[str, None]) -> bool:
        """Take all that is there into the streams; True when asked to close."""
        try:
            message = self._inbox.get(timeout=HEARTBEAT_SECONDS / 2 if self._streams else None)
            while True:
                if isinstance(message, _Close):
                    return True
                self._take(message, touched)
                message = self._inbox.get_nowait()
        except queue.Empty:
            return False

    def _take(self, message: StepOutput | _Register | _Consumed, touched: dict[str, None]) -> None:
        if isinstance(message, StepOutput):
            for event in message.events:  # hundreds a step: the hot loop
                try:
                    if self._collect(event):
                        touched[event.key] = None
                except Exception:
                    self._give_up(event.key)
        elif isinstance(message, _Register):
            assert message.key not in self._streams, "keys are minted once"
            self._streams[message.key] = message.stream
        else:
            stream = self._streams.get(message.key)
            if stream is not None and message.total > stream.num_consumed:
                stream.num_consumed = min(message.total, stream.num_sent)
                stream.last_progress = time.monotonic()
                touched[message.key] = None

    def _collect(self, event: GenerateEvent) -> bool:
        """Whether something may leave now; what may not waits until the window opens."""
        stream = self._streams.get(event.key)
        if stream is None:
            return False
        choice = stream.choices[event.index]
        choice.token_ids += event.token_ids
        choice.logprobs += event.logprobs
        stream.num_cached_tokens = event.num_cached_tokens
        if event.finish_reason is not None:
            choice.last = event
            return True
        if stream.stop_watch is not None and stream.stop_watch(event.index, event.token_ids):
            self._stop(event.key, event.index)
        return stream.streamed and stream.num_sent - stream.num_consumed < self._window

    def _in_order(self, touched: dict[str, None]) -> list[str]:
        """First tokens first: a waiting person notices those."""
        return sorted(touched, key=lambda key: key in self._streams and self._streams[key].num_sent > 0)

    def _flush(self, key: str) -> None:
        """Send what the window allows."""
        stream = self._streams.get(key)
        if stream is None:
            return
        choices = stream.choices
        if len(choices) > 1:
            choices = sorted(choices, key=lambda choice: choice.num_sent)  # fair to all of them when the window is tight
        for choice in choices:
            if choice.is_sent or (choice.last is None and not (stream.streamed and choice.token_ids)):
                continue
            if choice.last is None and stream.num_sent - stream.num_consumed >= self._window:
                continue
            self._send(key, stream, choice)

    def _send(self, key: str, stream: _Stream, choice: _Choice) -> None:
        last, choice.is_sent = choice.last, choice.last is not None
        response = Response(
            key=key,
            index=stream.choices.index(choice),
            token_ids=tuple(choice.token_ids),
            logprobs=tuple(choice.logprobs),
            finish_reason=last.finish_reason if last else None,
            num_cached_tokens=stream.num_cached_tokens,
            error=last.error if last else None,
            is_first=choice.num_sent == 0,
            is_final=last is not None and all(c.is_sent for c in stream.choices),
            timings=last.timings if last else None,
        )
        choice.num_sent += 1
        choice.token_ids, choice.logprobs = [], []
        stream.num_sent += 1
        stream.last_progress = time.monotonic()
        if response.is_final:
            del self._streams[key]
        stream.sink.send(response)

    def _watch_streams(self) -> None:
        """Heartbeats, and acknowledgements that seem lost; a few times a second at most."""
        now = time.monotonic()
        if now < self._next_watch:
            return
        self._next_watch = now + HEARTBEAT_SECONDS / 2
        for key, stream in list(self._streams.items()):
            idle = now - stream.last_progress
            if stream.num_sent > stream.num_consumed:
                if idle > STALL_SECONDS:
                    stream.num_consumed = stream.num_sent
                    self._guarded(key, self._flush, key)
            elif idle > HEARTBEAT_SECONDS and stream.streamed:
                choice = next(choice for choice in stream.choices if not choice.is_sent)
                self._guarded(key, self._send, key, stream, choice)
