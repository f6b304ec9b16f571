"""Drives a ModelRunner with hand-made steps: every sequence has its blocks from the start, and a step takes what a plan says."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ernie_backend.config import EngineConfig, ModelConfig
from ernie_backend.core.outputs import NewSequence, ScheduledSequence, SchedulerOutput
from ernie_backend.execution.input_batch import build_input_batch
from ernie_backend.execution.model_runner import ModelRunner
from ernie_backend.execution.weights import load_model
from ernie_backend.protocol import MediaItem, SamplingParams
from ernie_kernels import xp

BLOCK_SIZE = 8
GREEDY = SamplingParams(max_tokens=64, temperature=0.0)


def make_runner(folder: Path, num_blocks: int = 96, seed: int = 0, max_model_len: int = 256) -> ModelRunner:
    config = ModelConfig.from_folder(folder)
    engine = EngineConfig(str(folder), max_model_len=max_model_len, max_num_seqs=8, block_size_tokens=BLOCK_SIZE, seed=seed).resolved(
        config
    )
    return ModelRunner(load_model(folder, config, progress=False), config, engine, num_blocks)


class HandScheduler:
    """Known and computed tokens of a few sequences, and blocks dealt out in an order that is not the natural one."""

    def __init__(
        self,
        runner: ModelRunner,
        prompts: list[list[int]],
        sampling: list[SamplingParams] | None = None,
        seeds: list[int | None] | None = None,
        media: list[tuple[MediaItem, ...]] | None = None,
    ) -> None:
        self.runner = runner
        self.prompts = prompts
        self.tokens = [list(prompt) for prompt in prompts]
        self.computed = [0] * len(prompts)
        blocks = np.random.default_rng(1).permutation(runner.num_blocks).tolist()
        per_sequence = runner.num_blocks // len(prompts)
        self.blocks = [tuple(blocks[i * per_sequence : (i + 1) * per_sequence]) for i in range(len(prompts))]
        self.logprobs: list[list] = [[] for _ in prompts]
        self.failed: dict[int, str] = {}
        self.finished: tuple[int, ...] = ()
        sampling, seeds = sampling or [GREEDY] * len(prompts), seeds or [None] * len(prompts)
        media = media or [()] * len(prompts)
        self.unseen = {i: NewSequence(i, tuple(prompt), sampling[i], seeds[i], media[i]) for i, prompt in enumerate(prompts)}

    def step(self, counts: dict[int, int]) -> None:
        """One step in which sequence i computes counts[i] tokens (fewer if fewer are known)."""
        output = self.output(counts)
        result = self.runner.execute(output)
        for scheduled in output.scheduled:
            i = scheduled.sequence_id
            self.computed[i] += scheduled.num_scheduled_tokens
            assert scheduled.samples == (i in result.sampled or i in result.failed)
            if i in result.sampled:
                self.tokens[i].append(result.sampled[i])
                self.logprobs[i].append(result.logprobs.get(i))
        self.failed |= result.failed

    def output(self, counts: dict[int, int]) -> SchedulerOutput:
        scheduled, new = [], []
        for i, wanted in counts.items():
            count = min(wanted, len(self.tokens[i]) - self.computed[i])
            samples = self.computed[i] + count == len(self.tokens[i])
            scheduled.append(ScheduledSequence(i, self.computed[i], count, self.blocks[i], samples))
            if i in self.unseen:
                new.append(self.unseen.pop(i))
        return SchedulerOutput(tuple(new), tuple(scheduled), self.finished)

    def run(self, num_outputs: int, chunk: int = 10**6) -> list[list[int]]:
        """All sequences together, at most `chunk` tokens each per step, until each has `num_outputs` output tokens."""
        while unfinished := [i for i in range(len(self.prompts)) if len(self.outputs(i)) < num_outputs and i not in self.failed]:
            self.step({i: chunk for i in unfinished})
        return [self.outputs(i) for i in range(len(self.prompts))]

    def outputs(self, i: int) -> list[int]:
        return self.tokens[i][len(self.prompts[i]) :]


def all_logits(runner: ModelRunner, token_ids: list[int], media: tuple[MediaItem, ...] = ()) -> np.ndarray:
    """Logits [T, vocab] at every position of one prompt, computed in a single step."""
    hand = HandScheduler(runner, [token_ids], media=[media])
    output = hand.output({0: len(token_ids)})
    runner.execute(output)
    assert runner.states[0].token_ids.pop() >= 0
    step = SchedulerOutput((), output.scheduled, ())
    batch = build_input_batch(step, runner.states, BLOCK_SIZE, runner.media.prepare(step, runner.states) if runner.media else None)
    return xp.to_numpy(runner.model.logits(runner.model.forward(batch)))
