"""An engine whose GPU does nothing, and how long its host takes per decode step; for `host_steps`, which pretends that there is a GPU."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from ernie_backend.checkpoint_writer.published import make_config
from ernie_backend.config import EngineConfig
from ernie_backend.core.admission import Limits
from ernie_backend.core.engine_core import EngineCore
from ernie_backend.core.outputs import StepOutput
from ernie_backend.core.scheduler import Scheduler
from ernie_backend.delivery import Delivery, Response
from ernie_backend.engine import Engine
from ernie_backend.execution import graph_runner, prompt_graphs
from ernie_backend.execution.model_runner import ModelRunner
from ernie_backend.protocol import FinishReason, GenerateRequest, SamplingParams
from ernie_kernels import ops, xp

PROMPT_TOKENS = 64
FIRST_STEPS = 20
EOS = 2
STEPS_PER_RESPONSE = 8


class _NoGraph:
    def replay(self) -> None:
        pass


class _NoModel:
    """Computes nothing and returns memory of the right size."""

    def __init__(self, hidden_size: int) -> None:
        self.hidden_size = hidden_size

    def forward(self, batch: Any, caches: object, cos_sin: object) -> xp.Tensor:
        return xp.zeros([batch.token_ids.shape[0], self.hidden_size], ops.cache_dtype)

    def logits(self, hidden: object, out: object) -> None:
        pass


class Clock:
    """Time inside of wrapped methods, each without the wrapped ones that it calls."""

    def __init__(self) -> None:
        self.ns: dict[str, int] = {}
        self._inner = [0]

    def wrap(self, owner: Any, name: str, part: str) -> None:
        method = getattr(owner, name)
        self.ns[part] = 0

        def timed(*args: Any, **kwargs: Any) -> Any:
            self._inner.append(0)
            start = time.perf_counter_ns()
            try:
                return method(*args, **kwargs)
            finally:
                spent = time.perf_counter_ns() - start
                self.ns[part] += spent - self._inner.pop()
                self._inner[-1] += spent

        setattr(owner, name, timed)


class Sink:
    """Takes responses as fast as they come."""

    def send(self, response: Response) -> None:
        pass


class Host:
    """An engine of `batch` decoding sequences; the caller's thread takes the place of all of its threads."""

    def __init__(self, batch: int, max_steps: int, max_model_len: int, turnover: bool = False) -> None:
        xp.capture = lambda function: _NoGraph()  # type: ignore[assignment]
        for module in (graph_runner, prompt_graphs):
            module.feed_tokens = lambda *tensors: None
        _, config = make_config("ERNIE-4.5-0.3B", "pt", "bfloat16", ["num_hidden_layers=1", "vocab_size=1024"])
        blocks = batch * -(-(2 * PROMPT_TOKENS + max_steps) // 64 + 1)
        settings = EngineConfig("none", max_model_len=max_model_len, max_num_seqs=max(batch, 8)).resolved(config)
        runner = ModelRunner(_NoModel(config.hidden_size), config, settings, blocks)  # type: ignore[arg-type]
        assert runner.graphs is not None
        runner.graphs.sampler.choose = lambda *args, **kwargs: None  # type: ignore[method-assign]
        xp.host_view(runner.graphs.sampler.sampled)[:] = 7
        self.core = EngineCore(Scheduler(settings, blocks), runner)
        self.runner, self.graphs = runner, runner.graphs
        self.output = StepOutput(())
        self.engine = Engine(self.core, self._hear, Limits(4096, 1024))
        self.delivery = Delivery(max(1, batch // STEPS_PER_RESPONSE), abort=self._never, stop=self._never)
        self.keys: list[str] = []
        self.max_tokens = max_model_len - PROMPT_TOKENS
        self.rng = np.random.default_rng(0)
        self.made = 0
        for _ in range(batch):
            self._add()
        self.turnover = False
        self.run(FIRST_STEPS)
        assert len(self.core.scheduler.running) == batch and len(self.output.events) == batch
        self.turnover = turnover

    def _add(self) -> None:
        number, self.made = self.made, self.made + 1
        ids = tuple(self.rng.integers(3, 1000, self.rng.integers(1, PROMPT_TOKENS + 1)).tolist())
        drawn = {"temperature": 0.8, "top_p": 0.9} if number % 2 else {"temperature": 0.0}
        sampling = SamplingParams(max_tokens=self.max_tokens, eos_token_ids=(EOS,), **drawn)  # type: ignore[arg-type]
        request = GenerateRequest(f"{number:032x}", ids, sampling)
        self.keys.append(request.key)
        self.delivery.register(request.key, Sink(), n=1, streamed=True)
        self.core.add(request)

    def _replace_oldest(self) -> None:
        self._hear(self.core.finish(self.keys.pop(0), FinishReason.ABORT))
        self._add()

    def _hear(self, output: StepOutput) -> None:
        self.output = output
        self.delivery.push(output)

    @staticmethod
    def _never(*arguments: object) -> None:
        raise AssertionError(arguments)

    def run(self, steps: int) -> tuple[float, float]:
        """Seconds of the engine's turns, and of the delivery's."""
        engine = delivery = 0.0
        for _ in range(steps):
            if self.turnover:
                self._replace_oldest()
            start = time.perf_counter()
            self.engine._turn()
            assert self.core.has_work, "a step failed: its requests are gone"
            middle = time.perf_counter()
            self.delivery._turn()
            while self.delivery._may_send:
                self.delivery._turn()
            end = time.perf_counter()
            engine, delivery = engine + middle - start, delivery + end - middle
            self.delivery.consumed(len(self.keys))
        return engine, delivery

    def wrap(self, clock: Clock) -> None:
        for owner, name, part in (
            (self.engine, "_read_inbox", "inbox"),
            (self.core.scheduler, "schedule", "schedule"),
            (self.runner, "launch", "launch"),
            (graph_runner, "lay_out", "lay out"),
            (self.graphs.prompts, "compute", "prompt graph"),
            (self.graphs.sampler, "pack", "sampling rows"),
            (self.graphs.rows, "fill", "fill rows"),
            (self.graphs.rows._memory, "send", "copy rows"),
            (self.graphs.sampler, "send", "send"),
            (self.graphs.sampler, "receive", "receive"),
            (self.core.scheduler, "update", "update"),
            (self.engine, "_tell", "tell"),
            (self.core, "stats", "stats"),
        ):
            clock.wrap(owner, name, part)


def measure(batch: int, steps: int, rounds: int, max_model_len: int, turnover: bool) -> dict[str, float]:
    """µs per step; of several rounds the fastest, since what is slower is the machine's doing."""
    host = Host(batch, (rounds * 2 + 1) * steps, max_model_len, turnover)
    best = [min(times) / steps * 1e6 for times in zip(*(host.run(steps) for _ in range(rounds)), strict=True)]
    clock = Clock()
    host.wrap(clock)
    found: list[dict[str, float]] = []
    for _ in range(rounds):
        before = dict(clock.ns)
        host.run(steps)
        found.append({part: (ns - before[part]) / steps / 1e3 for part, ns in clock.ns.items()})
    parts = min(found, key=lambda row: sum(row.values()))
    return {**parts, "engine thread": best[0], "delivery thread": best[1]}
