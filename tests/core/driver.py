"""Runs a scheduler with the fake runner and collects what comes out."""

from __future__ import annotations

from ernie_backend.config import EngineConfig
from ernie_backend.core.engine_core import EngineCore
from ernie_backend.core.outputs import StepOutput
from ernie_backend.core.scheduler import Scheduler
from ernie_backend.protocol import FinishReason, GenerateRequest, SamplingParams
from tests.fakes.runner import FakeRunner


def config(**changes: object) -> EngineConfig:
    values: dict[str, object] = {
        "model": "none",
        "max_model_len": 64,
        "max_num_seqs": 4,
        "max_num_batched_tokens": 16,
        "block_size_tokens": 4,
    }
    return EngineConfig(**{**values, **changes})  # type: ignore[arg-type]


def request(key: str, prompt: tuple[int, ...], max_tokens: int = 5, *, n: int = 1, **sampling: object) -> GenerateRequest:
    return GenerateRequest(key, prompt, SamplingParams(max_tokens=max_tokens, **sampling), n=n)  # type: ignore[arg-type]


class Driver:
    """An engine core on fake integers, checked after every step."""

    def __init__(self, num_blocks: int = 64, steps_ahead: int = 0, **changes: object) -> None:
        self.config = config(**changes)
        self.runner = FakeRunner(num_blocks, self.config.block_size_tokens, steps_ahead)
        self.scheduler = Scheduler(self.config, num_blocks)
        self.core = EngineCore(self.scheduler, self.runner)
        self.tokens: dict[tuple[str, int], list[int]] = {}
        self.reasons: dict[tuple[str, int], FinishReason] = {}
        self.errors: dict[tuple[str, int], str | None] = {}

    def take(self, output: StepOutput) -> StepOutput:
        for event in output.events:
            choice = (event.key, event.index)
            assert choice not in self.reasons, "nothing comes after the finish"
            self.tokens.setdefault(choice, []).extend(event.token_ids)
            if event.finish_reason is not None:
                self.reasons[choice] = event.finish_reason
                self.errors[choice] = event.error
        self.scheduler.check_invariants()
        return output

    def step(self) -> StepOutput:
        output = self.core.step()
        if self.runner.broken_promise is not None:
            raise self.runner.broken_promise
        return self.take(output)

    def run(self, limit: int = 10_000) -> None:
        while self.core.has_work:
            self.step()
            limit -= 1
            assert limit, "the scheduler does not come to an end"
        assert self.scheduler.kv.pool.num_used == 0 and not self.runner.known
