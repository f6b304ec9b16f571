"""Times the real scheduler and runner on a random model: decode steps by batch size, prompts by number and length; prints nothing."""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from ..config import EngineConfig, ModelConfig
from ..core.engine_core import EngineCore
from ..core.scheduler import Scheduler
from ..errors import ConfigError
from ..execution.kv_cache import kv_cache_bytes_per_block
from ..execution.memory import cache_budget_bytes
from ..execution.model_runner import ModelRunner
from ..execution.models.ernie45 import Ernie45ForCausalLM
from ..protocol import FinishReason, GenerateRequest, SamplingParams
from .roofline import Ceilings, decode_floor_seconds, prefill_floor_seconds
from .step_profile import ProfileRow, profile_step
from .timing import settle, timed

_FIRST_STEPS = 8
"""Decode steps before the clock starts."""
_PROFILED_STEPS = 4


@dataclass(frozen=True)
class DecodeRow:
    batch: int
    context: int
    """Cached tokens per sequence in the middle of the measurement."""
    ms_per_step: float
    tokens_per_second: float
    floor_ms: float
    ratio: float
    """Floor over measured; 1 is perfect."""


@dataclass(frozen=True)
class PrefillRow:
    prompts: int
    length: int
    ms: float
    tokens_per_second: float
    floor_ms: float
    ratio: float


@dataclass(frozen=True)
class Profile:
    """GPU time of one decode step, kernel by kernel."""

    batch: int
    kernels: tuple[ProfileRow, ...]


class EngineBench:
    """One model; each measurement builds the engine it needs."""

    def __init__(
        self,
        model: Ernie45ForCausalLM,
        config: ModelConfig,
        ceilings: Ceilings,
        sampling: SamplingParams,
        *,
        deterministic: bool = False,
        seed: int = 0,
    ) -> None:
        self.deterministic = deterministic
        self.model = model
        self.config = config
        self.ceilings = ceilings
        self.sampling = sampling
        self.random = random.Random(seed)
        self._made = 0

    def decode(self, batches: Sequence[int], prompt: int, steps: int) -> Iterator[DecodeRow]:
        """`steps` decode steps of each batch size behind prompts of `prompt` tokens."""
        core = self._decode_core(batches, prompt, steps)
        for batch in batches:
            yield self._decode(core, batch, prompt, steps)

    def profile(self, batches: Sequence[int], prompt: int) -> Iterator[Profile]:
        """A few decode steps of each batch size under the framework's profiler."""
        core = self._decode_core(batches, prompt, _PROFILED_STEPS)
        for batch in batches:
            self._start(core, batch, prompt, _PROFILED_STEPS)
            runner = core.runner
            assert isinstance(runner, ModelRunner)
            context = core.scheduler.running[0].num_computed_tokens
            observe, launch_once = runner.launches(batch)
            kernels = profile_step(self.config, batch, context, observe, launch_once, lambda: [core.step() for _ in range(_PROFILED_STEPS)])
            self._stop(core)
            yield Profile(batch, kernels)

    def _decode_core(self, batches: Sequence[int], prompt: int, steps: int) -> EngineCore:
        return self.core(max(batches), prompt + _FIRST_STEPS + steps + max(batches) + 2, batch_sizes=batches)

    def _start(self, core: EngineCore, batch: int, prompt: int, steps: int) -> None:
        """Until every prompt is computed and a few decode steps are done."""
        for _ in range(batch):
            core.add(self.request(prompt, _FIRST_STEPS + steps + batch + 2))
        while any(sequence.num_computed_tokens < prompt for sequence in (*core.scheduler.running, *core.scheduler.waiting)):
            core.step()
        for _ in range(_FIRST_STEPS):
            core.step()
        settle()

    @staticmethod
    def _stop(core: EngineCore) -> None:
        core.finish_all(FinishReason.ABORT)
        core.step()

    def _decode(self, core: EngineCore, batch: int, prompt: int, steps: int) -> DecodeRow:
        self._start(core, batch, prompt, steps)
        start = time.perf_counter()
        for _ in range(steps):
            core.step()
        settle()
        seconds = (time.perf_counter() - start) / steps
        context = core.scheduler.running[0].num_computed_tokens - steps // 2
        self._stop(core)
        floor = decode_floor_seconds(self.config, self.ceilings, batch, context)
        return DecodeRow(batch, context, seconds * 1e3, batch / seconds, floor * 1e3, floor / seconds)

    def prefill(self, cases: Sequence[tuple[int, int]], max_num_batched_tokens: int, repeats: int = 3) -> Iterator[PrefillRow]:
        """(prompts, length): from the first request to the last first token, the median of `repeats`."""
        most = max(prompts for prompts, _ in cases)
        longest = max(length for _, length in cases)
        tokens = max(prompts * length for prompts, length in cases)
        core = self.core(most, longest + 8, batch_sizes=(), max_num_batched_tokens=max_num_batched_tokens, num_tokens=tokens + 64 * most)
        for prompts, length in cases:
            self._answer(core, prompts, length)
            seconds = statistics.median(timed(lambda n=prompts, s=length: self._answer(core, n, s)) for _ in range(repeats))  # type: ignore[misc]
            floor = prefill_floor_seconds(self.config, self.ceilings, prompts, length)
            yield PrefillRow(prompts, length, seconds * 1e3, prompts * length / seconds, floor * 1e3, floor / seconds)

    def _answer(self, core: EngineCore, prompts: int, length: int) -> None:
        for _ in range(prompts):
            core.add(self.request(length, 1))
        while core.has_work:
            core.step()

    def core(
        self,
        max_num_seqs: int,
        length: int,
        batch_sizes: Sequence[int],
        max_num_batched_tokens: int = 8192,
        num_tokens: int | None = None,
        *,
        fit_memory: bool = False,
    ) -> EngineCore:
        """An engine with room for `num_tokens` (None: `max_num_seqs` sequences of `length`) and warm graphs of `batch_sizes`.

        `fit_memory`: with less room than that if the memory does not allow it, so that sequences are preempted. Raises `ConfigError` if it
        does not hold even one."""
        gc.collect()  # the engine before this one
        length = min(-(-length // 64) * 64, self.config.max_position_embeddings)
        config = EngineConfig(
            "random",
            max_model_len=length,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max(max_num_batched_tokens, max_num_seqs),
            deterministic=self.deterministic,
        ).resolved(self.config)
        num_blocks = -(-(num_tokens or max_num_seqs * length) // config.block_size_tokens) + 1
        if fit_memory:
            bytes_per_block = kv_cache_bytes_per_block(self.config, config.block_size_tokens)
            num_blocks = min(num_blocks, cache_budget_bytes(config, self.config) // bytes_per_block)
            if num_blocks < config.blocks_per_sequence:
                raise ConfigError(f"The memory has no room for the KV cache of one sequence of {length} tokens.", param="closed_loop")
        runner = ModelRunner(self.model, self.config, config, num_blocks)
        runner.warm_up(batch_sizes, prompt_lengths=())  # prompts are computed once before the clock starts
        return EngineCore(Scheduler(config, num_blocks), runner)

    def request(self, prompt: int, max_tokens: int) -> GenerateRequest:
        """A prompt of random ids that is answered with `max_tokens` tokens."""
        self._made += 1
        ids = tuple(self.random.choices(range(self.config.vocab_size), k=prompt))
        return GenerateRequest(f"{self._made:032x}", ids, SamplingParams(**{**asdict(self.sampling), "max_tokens": max_tokens}))
