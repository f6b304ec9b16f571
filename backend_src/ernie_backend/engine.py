"""The one thread that owns the engine's state: inbox, steps, abort, drain, shutdown. Knows no tensors, no text and no Triton.

Everybody else talks to it through the inbox; what it has to say goes to `listener` (the delivery). Between the two there is no lock.
"""

from __future__ import annotations

import contextlib
import logging
import math
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .abort_signal import aborted
from .core.admission import Admission, Limits
from .core.engine_core import EngineCore
from .core.outputs import StepOutput
from .core.scheduler import SchedulerStats
from .errors import EngineError, UnavailableError
from .protocol import FinishReason, GenerateEvent, GenerateRequest
from .timeline import Timeline

log = logging.getLogger(__name__)

STOPPING = UnavailableError(
    "The server is shutting down. Send the request to another server, or again when it is back.", retry_after_seconds=5
)
CUT_OFF = UnavailableError("The server is shutting down, and stopped this answer before it was complete. Try again.", retry_after_seconds=5)
ABORTED = aborted()
IDLE_CHECK_SECONDS = 1.0

NOT_QUEUED = EngineError("The engine could not take this request. Try again; if it happens again, see the server's log.")
BROKEN = "no step can be computed any more"
STOPPED = UnavailableError("The engine has stopped. Restart the server; its log says why.")


@dataclass(frozen=True)
class _Add:
    request: GenerateRequest


@dataclass(frozen=True)
class _Finish:
    key: str
    reason: FinishReason
    index: int | None = None


@dataclass(frozen=True)
class _Ended:
    reason: FinishReason


@dataclass(frozen=True)
class _Abort:
    tenant: str | None
    answer_ids: tuple[str, ...] | None
    reply: Callable[[tuple[str, ...]], None]


@dataclass(frozen=True)
class _Drain:
    seconds: float


class _Shutdown:
    pass


_Message = _Add | _Finish | _Ended | _Abort | _Drain | _Shutdown


class Engine:
    """Runs an `EngineCore` on a thread of its own until `shutdown`."""

    def __init__(self, core: EngineCore, listener: Callable[[StepOutput], None], limits: Limits) -> None:
        self._core = core
        self._listener = listener
        self._admission = Admission(limits)
        self._inbox: queue.SimpleQueue[_Message] = queue.SimpleQueue()
        self._drain_deadline: float | None = None
        self._stopping = False
        self._alive = False
        self._step_began: float | None = None
        self._stats = core.stats()
        self.timeline = Timeline()
        self._thread = threading.Thread(target=self._run, name="ernie-engine", daemon=True)

    # -- from any thread -----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._alive = True
        self._thread.start()

    def submit(self, request: GenerateRequest) -> None:
        """Queue a request; every answer, also a refusal, comes through the listener."""
        if not self._alive:
            self._listener(refusal(request, STOPPED.to_wire()))
            return
        self._inbox.put(_Add(request))
        if not self._alive:  # it died in between, and has emptied its inbox for the last time
            self._refuse_rest()

    def abort(self, key: str) -> None:
        """The client left: the request ends with `ABORT` before the next step."""
        self._inbox.put(_Finish(key, FinishReason.ABORT))

    def stop(self, key: str, index: int) -> None:
        """A stop string was found: the choice ends with `STOP` before the next step."""
        self._inbox.put(_Finish(key, FinishReason.STOP, index))

    def ended(self, reason: str) -> None:
        """A sequence of a request that may call tools has stopped, and this is what it came to: for the counts."""
        self._inbox.put(_Ended(FinishReason(reason)))

    def abort_answers(self, tenant: str | None, answer_ids: tuple[str, ...] | None, reply: Callable[[tuple[str, ...]], None]) -> None:
        """End the tenant's requests (None: everybody's) that go by one of the ids (None: all of them) before the next step. `reply`,
        called on the engine's thread or on this one, gets the ids that named something."""
        self._inbox.put(_Abort(tenant, answer_ids, reply))
        if not self._alive:
            self._refuse_rest()

    def drain(self, seconds: float) -> None:
        """Take no new requests; abort what has not ended after `seconds`."""
        self._inbox.put(_Drain(seconds))

    def shutdown(self, timeout_seconds: float = 10.0) -> None:
        """Abort everything, end the thread and wait for it."""
        self._inbox.put(_Shutdown())
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)

    @property
    def is_alive(self) -> bool:
        """Whether requests are being answered: the thread runs."""
        return self._alive and self._thread.is_alive()

    @property
    def is_draining(self) -> bool:
        """Whether new requests are refused because the server stops."""
        return self._drain_deadline is not None or self._stopping

    @property
    def step_seconds(self) -> float:
        """How long the step under way has taken; 0 between two steps."""
        began = self._step_began
        return 0.0 if began is None else time.monotonic() - began

    @property
    def stats(self) -> SchedulerStats:
        """As of the last step."""
        return self._stats

    # -- on the engine thread ------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        _show_name()
        try:
            while not self._stopping:
                self._turn()
            self._tell(self._core.finish_all(FinishReason.ABORT, error=CUT_OFF.to_wire()))
        except BaseException:
            log.critical("the engine thread died", exc_info=True)
            self._alive = False
            self._tell(self._core.finish_all(FinishReason.ERROR, error=STOPPED.to_wire()))
        finally:
            self._alive = False
            self._refuse_rest()
            self._stats = self._core.stats()

    def _turn(self) -> None:
        self._read_inbox()
        self._enforce_deadlines()
        if not self._stopping and self._core.has_work:
            began_at = self._step_began = time.monotonic()
            output = self._core.step()
            self._step_began = None
            self._tell(output, began_at)
            if self._core.is_broken:
                raise RuntimeError(BROKEN)
        self._enforce_drain()
        self._stats = self._core.stats()

    def _read_inbox(self) -> None:
        """All that is there; waits only when there is nothing to compute."""
        timeout = None
        if self._drain_deadline is not None and self._drain_deadline != math.inf:
            timeout = max(0.0, self._drain_deadline - time.monotonic())
        try:
            message = self._inbox.get_nowait() if self._core.has_work else self._wait(timeout)
            while True:
                self._handle(message)
                message = self._inbox.get_nowait()
        except queue.Empty:
            return

    def _wait(self, timeout: float | None) -> _Message:
        """The next message; the books are checked once when nothing has come for a while."""
        if timeout is None:
            with contextlib.suppress(queue.Empty):
                return self._inbox.get(timeout=IDLE_CHECK_SECONDS)
            self._core.check_idle()
        return self._inbox.get(timeout=timeout)

    def _handle(self, message: _Message) -> None:
        if isinstance(message, _Add):
            self._add(message.request)
        elif isinstance(message, _Finish):
            self._tell(self._core.finish(message.key, message.reason, index=message.index))
        elif isinstance(message, _Ended):
            self._core.scheduler.count_end(message.reason)
        elif isinstance(message, _Abort):
            self._abort_answers(message)
        elif isinstance(message, _Drain):
            self._drain_deadline = time.monotonic() + message.seconds
        else:
            self._stopping = True

    def _add(self, request: GenerateRequest) -> None:
        self.timeline.arrived(request)
        if self._stopping or self._drain_deadline is not None:
            self._tell(refusal(request, STOPPING.to_wire()))
            return
        now = time.monotonic()
        error = self._admission.refusal(request, self._core.scheduler.load(), now)
        if error is not None:
            self._tell(refusal(request, error.to_wire()))
            return
        try:
            self._core.add(request)
            self._admission.accepted(request, now)
        except Exception:
            log.exception("request %s could not be queued", request.key, extra={"request_id": request.request_id})
            self._tell(refusal(request, NOT_QUEUED.to_wire()))

    def _abort_answers(self, asked: _Abort) -> None:
        found = self._core.scheduler.answers_of(asked.tenant, asked.answer_ids)
        for key, _ in found:
            self._tell(self._core.finish(key, FinishReason.ABORT, error=ABORTED.to_wire()))
        asked.reply(tuple(dict.fromkeys(answer_id for _, answer_id in found)))

    def _enforce_deadlines(self) -> None:
        scheduler = self._core.scheduler
        for key, error in self._admission.expired(time.monotonic(), scheduler.is_unfinished, scheduler.waiting.is_unstarted):
            self._tell(self._core.finish(key, FinishReason.ERROR, error=error.to_wire()))

    def _enforce_drain(self) -> None:
        if self._drain_deadline is not None and time.monotonic() >= self._drain_deadline:
            self._tell(self._core.finish_all(FinishReason.ABORT, error=CUT_OFF.to_wire()))
            self._drain_deadline = math.inf  # done: from here on nothing is waited for

    def _refuse_rest(self) -> None:
        while True:
            try:
                message = self._inbox.get_nowait()
            except queue.Empty:
                return
            if isinstance(message, _Add):
                self._tell(refusal(message.request, STOPPED.to_wire()))
            elif isinstance(message, _Abort):
                message.reply(())

    def _tell(self, output: StepOutput, began_at: float | None = None) -> None:
        """`began_at`: when the step was scheduled, if it is one."""
        output = self.timeline.noted(output, began_at)
        if output.events:
            self._listener(output)


def _show_name() -> None:
    """The thread's name for `top -H` and debuggers, which Python sets itself only from 3.14 on."""
    with contextlib.suppress(OSError):
        Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text(threading.current_thread().name, encoding="ascii")


def refusal(request: GenerateRequest, error: str, reason: FinishReason = FinishReason.ERROR) -> StepOutput:
    """A request that never ran ends every choice with the error."""
    return StepOutput(tuple(GenerateEvent(request.key, index, (), finish_reason=reason, error=error) for index in range(request.n)))
