"""One step of the engine: schedule, launch, collect, update. Owns scheduler and runner; knows no threads, no sockets and no Triton."""

from __future__ import annotations

import logging
from collections import deque
from typing import Any, Protocol

from ..protocol import FinishReason, GenerateEvent, GenerateRequest
from .outputs import ModelRunnerOutput, SchedulerOutput, StepOutput
from .scheduler import Scheduler, SchedulerStats

log = logging.getLogger(__name__)


class Runner(Protocol):
    """What executes a step: `execution.model_runner.ModelRunner`, or a scripted one in tests."""

    steps_ahead: int
    """1: `launch` does not wait for the step, so that the next can be scheduled meanwhile. 0: it does."""

    def launch(self, output: SchedulerOutput) -> Any: ...
    def collect(self, launched: Any) -> ModelRunnerOutput:
        """The result of what `launch` returned, in the order of launches."""
        ...

    def recover(self) -> None:
        """After a failed step, when no block holds anything: compute one token. Raises if steps cannot be computed any more."""
        ...


class EngineCore:
    """The engine without its threads; every method is called from one thread."""

    def __init__(self, scheduler: Scheduler, runner: Runner) -> None:
        self.scheduler = scheduler
        self.runner = runner
        self._in_flight: deque[tuple[SchedulerOutput, Any]] = deque()
        self.is_broken = False
        """A step failed, and the runner has not recovered: no step will succeed any more (a GPU after an illegal access, say)."""

    @property
    def has_work(self) -> bool:
        return self.scheduler.has_work or bool(self._in_flight)

    def add(self, request: GenerateRequest) -> None:
        self.scheduler.add(request)

    def finish(self, key: str, reason: FinishReason, *, index: int | None = None, error: str | None = None) -> StepOutput:
        return self.scheduler.finish(key, reason, index=index, error=error)

    def finish_all(self, reason: FinishReason, *, error: str | None = None) -> StepOutput:
        return self.scheduler.finish_all(reason, error=error)

    def step(self) -> StepOutput:
        """Schedule and launch a step, then book the one that is `steps_ahead` before it (with nothing to compute: the oldest in flight).

        A step that raises ends the running requests with an error; the queue goes on, unless the core is broken.
        """
        try:
            output = self.scheduler.schedule()
            started, batch_size = tuple(new.choice for new in output.new_sequences), len(output.scheduled)
            self._in_flight.append((output, self.runner.launch(output)))
            if output.scheduled and len(self._in_flight) <= self.runner.steps_ahead:
                return StepOutput((), started, batch_size)
            events = self._book_oldest()
            if not output.scheduled:
                while self._in_flight:
                    events += self._book_oldest()
            return StepOutput(events, started, batch_size)
        except Exception:
            log.exception("a step failed; its requests end with an error")
            self._in_flight.clear()
            failed = self.scheduler.fail_step()
            self._recover()
            return failed

    def _recover(self) -> None:
        """Tells a request that cannot be computed from a device that cannot compute."""
        try:
            self.runner.recover()
        except Exception:
            log.critical("after a failed step not even one token can be computed", exc_info=True)
            self.is_broken = True

    def _book_oldest(self) -> tuple[GenerateEvent, ...]:
        output, launched = self._in_flight.popleft()
        return self.scheduler.update(output, self.runner.collect(launched)).events

    def check_idle(self) -> None:
        """When nothing runs, every block must be free. A fault is ours: it goes to the log, and serving goes on."""
        try:
            self.scheduler.check_invariants()
        except AssertionError:
            log.exception("the scheduler's books do not balance")

    def stats(self) -> SchedulerStats:
        return self.scheduler.stats()
