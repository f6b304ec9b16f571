"""A fixed number of requests in flight, a finished one replaced at once, through the real scheduler and runner; prints nothing.

The steady state is measured without running into it for minutes. Request i of N starts as if i/N of its answer had been given: that part is
in its prompt, and the rest is left to generate. So from the start answers end evenly spread, a prompt comes with every (output / N)-th
step, and contexts lie between prompt and prompt + output tokens, as they do for ever after.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.engine_core import EngineCore, Runner
from ..core.outputs import ModelRunnerOutput, SchedulerOutput
from ..errors import EngineError
from ..protocol import FinishReason
from .engine_bench import EngineBench
from .roofline import decode_floor_seconds, prefill_floor_seconds

_STEPS = 256
"""Steps on the clock: a quarter of a turn of 1024-token answers, 3 s at 64 requests and 7 s at 512 on an H200."""
_FIRST_REPLACEMENTS = 4
"""Prompts that have joined running answers before the clock starts: what compiles at first use has compiled."""


@dataclass(frozen=True)
class ClosedLoopRow:
    concurrency: int
    prompt: int
    output: int
    """Tokens of every answer."""
    steps: int
    seconds: float
    output_tokens_per_second: float
    prompt_tokens_per_second: float
    prompt_steps: int
    """Steps that computed prompt tokens, beside the decoding rows."""
    prompt_step_ms: float | None
    """Their mean; None: there was none."""
    decode_step_ms: float | None
    """Mean of the steps that only decoded."""
    preemptions: int
    floor_tokens_per_second: float
    """Decode floor at the mean context for every step, and the prompts of a turn at the prefill floor."""
    ratio: float
    """Measured over floor; 1 is perfect."""


class _WatchedRunner:
    """A runner that remembers what the step just collected computed."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.steps_ahead = runner.steps_ahead
        self._launched: deque[int] = deque()
        self.prompt_tokens = 0
        """Of the step collected last; 0: it only decoded."""

    def launch(self, output: SchedulerOutput) -> Any:
        self._launched.append(sum(s.num_scheduled_tokens for s in output.scheduled if s.num_scheduled_tokens > 1 or not s.samples))
        return self.runner.launch(output)

    def collect(self, launched: Any) -> ModelRunnerOutput:
        self.prompt_tokens = self._launched.popleft()
        return self.runner.collect(launched)

    def recover(self) -> None:
        self.runner.recover()


def closed_loop(
    bench: EngineBench, concurrencies: Sequence[int], prompt: int, output: int, max_batched_tokens: int
) -> Iterator[ClosedLoopRow]:
    """One row for each number of requests in flight. Raises `ConfigError` if not even one fits into the memory."""
    for concurrency in concurrencies:
        yield _Loop(bench, concurrency, prompt, output, max_batched_tokens).run()


class _Loop:
    """One engine under one load."""

    def __init__(self, bench: EngineBench, concurrency: int, prompt: int, output: int, max_batched_tokens: int) -> None:
        self.bench, self.concurrency, self.prompt, self.output = bench, concurrency, prompt, output
        core = bench.core(concurrency, prompt + output, (concurrency,), max_batched_tokens, fit_memory=True)
        self.runner = _WatchedRunner(core.runner)
        self.core = EngineCore(core.scheduler, self.runner)
        turns = (_STEPS + self._steps_between * (_FIRST_REPLACEMENTS + 1)) / output + 1
        self.spare = [bench.request(prompt, output) for _ in range(int(concurrency * turns) + 1)]  # made before the clock starts

    @property
    def _steps_between(self) -> int:
        """Two ends of answers."""
        return -(-self.output // self.concurrency)

    def run(self) -> ClosedLoopRow:
        for i in range(self.concurrency):
            given = i * self.output // self.concurrency
            self.core.add(self.bench.request(self.prompt + given, self.output - given))
        first = list(self.core.scheduler.waiting)
        while any(sequence.finish_reason is None and not sequence.has_computed_prompt for sequence in first):
            self._step()
        for _ in range(_FIRST_REPLACEMENTS * self._steps_between):
            self._step()
        row = self._measure()
        self.core.finish_all(FinishReason.ABORT)
        self.core.step()
        return row

    def _step(self) -> int:
        """One step; a request for each that ended. Returns the number of new tokens."""
        tokens = 0
        for event in self.core.step().events:
            if event.error is not None:
                raise EngineError("A step of the closed loop failed; the log above says why.")
            tokens += len(event.token_ids)
            if event.finish_reason is not None:
                self.core.add(self.spare.pop() if self.spare else self.bench.request(self.prompt, self.output))
        return tokens

    def _measure(self) -> ClosedLoopRow:
        seconds = {True: 0.0, False: 0.0}
        steps = {True: 0, False: 0}
        tokens = prompt_tokens = 0
        preemptions = self.core.stats().preemptions_total
        before = start = time.perf_counter()  # a step has just been collected; the next is under way on a GPU
        for _ in range(_STEPS):
            tokens += self._step()
            now = time.perf_counter()
            computed = self.runner.prompt_tokens  # a step ends when its tokens are there: the time since the last ones came is its own
            seconds[computed > 0] += now - before
            steps[computed > 0] += 1
            prompt_tokens += computed
            before = now
        total = before - start
        floor = self._floor_tokens_per_second()
        means = {kind: seconds[kind] / steps[kind] * 1e3 if steps[kind] else None for kind in steps}
        return ClosedLoopRow(
            *(self.concurrency, self.prompt, self.output, _STEPS, total, tokens / total, prompt_tokens / total),
            *(steps[True], means[True], means[False], self.core.stats().preemptions_total - preemptions),
            *(floor, tokens / total / floor),
        )

    def _floor_tokens_per_second(self) -> float:
        config, ceilings = self.bench.config, self.bench.ceilings
        decode = self.output * decode_floor_seconds(config, ceilings, self.concurrency, self.prompt + self.output // 2)
        return self.concurrency * self.output / (decode + prefill_floor_seconds(config, ceilings, self.concurrency, self.prompt))
