"""One step of the engine: schedule, execute, update. Owns scheduler and runner; knows no threads, no sockets and no Triton."""

from __future__ import annotations

import logging
from typing import Protocol

from ..protocol import FinishReason, GenerateRequest
from .outputs import ModelRunnerOutput, SchedulerOutput, StepOutput
from .scheduler import Scheduler, SchedulerStats

log = logging.getLogger(__name__)


class Runner(Protocol):
    """What executes a step: `execution.model_runner.ModelRunner`, or a scripted one in tests."""

    def execute(self, output: SchedulerOutput) -> ModelRunnerOutput: ...


class EngineCore:
    """The engine without its threads; every method is called from one thread."""

    def __init__(self, scheduler: Scheduler, runner: Runner) -> None:
        self.scheduler = scheduler
        self.runner = runner

    @property
    def has_work(self) -> bool:
        return self.scheduler.has_work

    @property
    def num_sequences(self) -> int:
        """Unfinished ones, running and waiting."""
        return self.scheduler.num_sequences

    def add(self, request: GenerateRequest) -> None:
        self.scheduler.add(request)

    def finish(self, key: str, reason: FinishReason, *, index: int | None = None) -> StepOutput:
        return self.scheduler.finish(key, reason, index=index)

    def finish_all(self, reason: FinishReason, *, error: str | None = None) -> StepOutput:
        return self.scheduler.finish_all(reason, error=error)

    def step(self) -> StepOutput:
        """Schedule, execute, update. A step that raises ends the running requests with an error; the queue goes on."""
        try:
            output = self.scheduler.schedule()
            result = self.runner.execute(output)
            return self.scheduler.update(output, result)
        except Exception:
            log.exception("a step failed; its requests end with an error")
            return self.scheduler.fail_step()

    def check_idle(self) -> None:
        """When nothing runs, every block must be free. A fault is ours: it goes to the log, and serving goes on."""
        try:
            self.scheduler.check_invariants()
        except AssertionError:
            log.exception("the scheduler's books do not balance")

    def stats(self) -> SchedulerStats:
        return self.scheduler.stats()
