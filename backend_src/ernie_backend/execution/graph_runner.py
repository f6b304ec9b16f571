"""Runs steps on a GPU: as CUDA graphs over fixed memory, or launch by launch what fits none; decides nothing about scheduling.

A step is launched without knowing the tokens of the one before: they are on the device, and a sequence's newest id may be a placeholder
(see `DeviceSampler.send`), which `feed_tokens` replaces there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import numpy as np
from tqdm import tqdm

from ernie_kernels import ops, xp
from ernie_kernels.launch import observe
from ernie_kernels.triton.token_feed import feed_tokens
from ernie_kernels.xp import Tensor

from ..config import EngineConfig, ModelConfig
from ..core.outputs import NewSequence, ScheduledSequence, SchedulerOutput
from ..protocol import SamplingParams
from .cached_model import CachedModel
from .decode_rows import DecodeRows
from .device_sampler import DeviceSampler, PendingTokens
from .graph_sizes import batch_buckets
from .input_batch import InputBatch, MediaLayout, lay_out, upload
from .media_inputs import MediaInputs
from .prompt_graphs import PromptGraphs
from .sequence_state import SequenceState

_WARM_UP_LENGTHS = (1, 2, 9, 16, 24, 32, 40, 64, 100, 128, 256, 320, 500, 512, 520, 640, 1024, 2000, 2048, 4096, 8192)
"""One of each kind that kernels are compiled for beside the graphs: short, long, whole and broken tiles, multiples of 16 (faster loads)
and not."""


def _short_ones_first(step: SchedulerOutput) -> SchedulerOutput:
    """Attention serves them apart (`ops.attention`)."""
    return replace(step, scheduled=tuple(sorted(step.scheduled, key=lambda s: s.num_scheduled_tokens > 1)))


class GraphRunner:
    """Owns graphs, their memory and the sampler."""

    def __init__(self, model: CachedModel, model_config: ModelConfig, engine_config: EngineConfig) -> None:
        assert engine_config.max_model_len is not None
        self.model = model
        self.block_size = engine_config.block_size_tokens
        self.max_model_len = engine_config.max_model_len
        self.hidden_size = model_config.hidden_size
        assert engine_config.max_num_batched_tokens is not None
        self.max_tokens = engine_config.max_num_batched_tokens
        self.two_kinds = bool(model_config.vision_moe_intermediate_size)
        """Whether tokens of images have experts of their own."""
        self.buckets = batch_buckets(engine_config.max_num_seqs)
        self.sampler = DeviceSampler(model_config.vocab_size, engine_config.max_num_seqs)
        self.rows = DecodeRows(engine_config.max_num_seqs, engine_config.blocks_per_sequence, self.block_size, self.sampler.masks)
        self._no_lines = np.full(engine_config.max_num_seqs, -1, np.int64)
        self._bounds = xp.from_numpy(np.arange(engine_config.max_num_seqs + 1, dtype=np.int32))
        self._graphs: dict[tuple[int, bool], Any] = {}
        self.prompts = PromptGraphs(model, model_config, engine_config, self.sampler.sampled)

    def launch(self, step: SchedulerOutput, states: Mapping[int, SequenceState], media: MediaInputs | None = None) -> PendingTokens:
        """Start a step with at least one token."""
        sequence_ids, starts, counts, tables, samples = zip(*step.scheduled, strict=True)
        sees = media is not None and media.concerns(step)
        if not sees and all(samples) and max(counts) == 1:
            bucket = next(size for size in self.buckets if size >= len(starts))
            seating = self.rows.seat([states[sequence_id] for sequence_id in sequence_ids])
            none = self._no_lines[: len(starts)]
            slots = self.sampler.assign_slots(seating.states) if seating.penalised else none
            masks = self.sampler.send_masks(seating.states) if seating.constrained else none
            if self.rows.fill(seating, starts, tables, (slots, masks), bucket):
                self.decode(bucket, truncated=seating.truncates)
                rows = self.rows.sampling_rows(bucket) if seating.wants_logprobs else None
                return self.sampler.send(seating.states, rows, constrained=seating.constrained)
        step = _short_ones_first(step)
        seen = media.prepare(step, states) if media is not None and sees else None
        layout = lay_out(step, states, self.block_size, by_media=seen is not None)
        sampling = [states[s.sequence_id] for s in step.scheduled if s.samples]
        prompts = self.prompts.bucket(layout) if seen is None or self.prompts.see else None
        if prompts is None:
            return self._launch_eagerly(upload(layout, seen), sampling)
        return self._sample(self.prompts.compute(layout, prompts, seen), sampling)

    def _launch_eagerly(self, batch: InputBatch, sampling: list[SequenceState]) -> PendingTokens:
        token_ids = xp.empty(batch.token_ids.shape, "int32")
        feed_tokens(batch.token_ids, self.sampler.sampled, token_ids)
        hidden = self.model.forward(replace(batch, token_ids=token_ids))
        return self._sample(hidden if batch.logits_rows is None else xp.take(hidden, batch.logits_rows, axis=0), sampling)

    def decode(self, bucket: int, *, truncated: bool) -> None:
        """One decode step of the rows that were sent, as a graph; the first of its kind launch by launch, and then captured.

        A step must not run twice: it reads what the one before has chosen, and counts the tokens that it chooses itself.
        """
        graph = self._graphs.get((bucket, truncated))
        if graph is not None:
            graph.replay()
            return
        self._decode(bucket, truncated)  # compiles what is missing
        xp.synchronize()
        self._graphs[bucket, truncated] = xp.capture(lambda: self._decode(bucket, truncated))

    def _decode(self, bucket: int, truncated: bool) -> None:
        device, host = self.rows.device, self.rows.host
        token_ids = xp.empty([bucket], "int32")
        feed_tokens(device["token_ids"][:bucket], self.sampler.sampled, token_ids)
        metadata = ops.AttentionMetadata(
            cu_seqlens_q=self._bounds[: bucket + 1],
            context_lens=device["context_lens"][:bucket],
            block_tables=device["block_tables"][:bucket],
            cu_seqlens_q_host=np.arange(bucket + 1, dtype=np.int32),
            context_lens_host=host["context_lens"][:bucket],
            block_tables_host=host["block_tables"][:bucket],
            max_query_len=1,
            max_context_len=self.max_model_len,
        )
        batch = InputBatch(token_ids, device["positions"][:bucket], device["slot_mapping"][:bucket], metadata, None)
        self.model.logits(self.model.forward(batch), self.sampler.logits[:bucket])
        self.sampler.choose(self.rows.sampling_rows(bucket), bucket, truncated=truncated)

    def launches(self, num_rows: int) -> tuple[Callable[..., AbstractContextManager[None]], Callable[[], None]]:
        """See `ModelRunner.launches`."""
        bucket = next(size for size in self.buckets if size >= num_rows)
        return observe, lambda: self._decode(bucket, False)

    def _sample(self, hidden: Tensor, states: list[SequenceState]) -> PendingTokens:
        """From the hidden states [rows, hidden] of what samples in a step that is no decode step. If nothing does, they are not read, but
        the step can be waited for all the same."""
        if not states:
            return self.sampler.send([], None, constrained=False)
        self.model.logits(hidden, self.sampler.logits[: len(states)])
        rows = self.sampler.pack(states)
        self.sampler.choose(rows, len(states), truncated=any(state.truncates for state in states))
        wants_logprobs = any(state.sampling.logprobs is not None for state in states)
        constrained = any(state.constraint is not None for state in states)
        return self.sampler.send(states, rows if wants_logprobs else None, constrained=constrained)

    def warm_up(self, batch_sizes: Sequence[int] | None, prompt_lengths: Sequence[int] | None, longest: int) -> None:
        """Compile the kernels of steps with so many tokens of prompts and capture the graphs of these batch sizes (None: of every kind).
        `longest`: most tokens of one sequence in a step. Writes into the first blocks."""
        buckets = [size for size in self.buckets if batch_sizes is None or size in batch_sizes]
        most = min(self.max_tokens, self.buckets[-1] * longest)
        wanted = (*_WARM_UP_LENGTHS, most) if prompt_lengths is None else prompt_lengths
        lengths = sorted({min(length, most) for length in wanted})
        # Beside a prompt, one of each way to cut the attention of a step's single tokens (`attention_decode.plan_decode`).
        mixed = sorted({min(count, self.buckets[-1] - 1) for count in (1, 3, 64, 256)} - {0}) if prompt_lengths is None else ()
        prompts = self.prompts.buckets if prompt_lengths is None else ()
        seen = sorted({min(length, most - 1) for length in lengths} - {0}) if self.two_kinds else []
        total = len(lengths) + len(mixed) + len(seen) + len(prompts) + 2 * len(buckets)
        with tqdm(total=total, desc="Compiling kernels and capturing graphs", unit="step") as bar:
            for length in lengths:
                self._warm_up_prompts(length, longest)
                bar.update()
            for count in mixed:
                self._warm_up_prompts(max(1, min(16, most - count)), longest, num_single=count)
                bar.update()
            for length in seen:
                self._warm_up_prompts(min(length, most - length), longest, num_visual=length)
                bar.update()
            for sizes in prompts:
                self.prompts.warm_up(sizes)
                bar.update()
            for bucket in sorted(buckets, reverse=True):  # the largest first: the others find their memory in its pool
                for truncated in (False, True):
                    self.rows.fill(self.rows.seat([]), (), (), (self._no_lines[:0], self._no_lines[:0]), bucket)
                    self.decode(bucket, truncated=truncated)
                    bar.update()
        xp.synchronize()

    def _warm_up_prompts(self, length: int, longest: int, num_single: int = 0, num_visual: int = 0) -> None:
        """A step with `length` tokens of text, and then `num_visual` of images, in prompts of at most `longest`, beside the second token of
        `num_single` others."""
        sampling = SamplingParams(max_tokens=2, temperature=0.8, top_p=0.9, repetition_penalty=1.1, logprobs=1)
        states, scheduled = {}, []
        for sequence_id, start in enumerate(range(0, length + num_visual, longest)):
            count = min(longest, length + num_visual - start)
            new = NewSequence(sequence_id, (0,) * count, sampling, seed=0)
            states[sequence_id] = SequenceState(new, 0, self.sampler.vocab_size)
            blocks = tuple(range(-(-count // self.block_size)))  # all the same ones: what is written there means nothing
            scheduled.append(ScheduledSequence(sequence_id, 0, count, blocks, samples=True))
        for sequence_id in range(-num_single, 0):
            states[sequence_id] = SequenceState(NewSequence(sequence_id, (0, 0), sampling, seed=0), 0, self.sampler.vocab_size)
            scheduled.append(ScheduledSequence(sequence_id, 1, 1, blocks, samples=True))
        step = _short_ones_first(SchedulerOutput((), tuple(scheduled), ()))
        layout = lay_out(step, states, self.block_size)
        media = self._seen(len(layout.token_ids), num_visual) if num_visual else None
        pending = self._launch_eagerly(upload(layout, media), [states[s.sequence_id] for s in step.scheduled])
        self.sampler.receive(pending)
        self.sampler.forget(tuple(states))

    def _seen(self, num_tokens: int, num_visual: int) -> MediaLayout:
        """The last tokens of a step are those of an image, of which nothing is seen."""
        rows = np.arange(num_tokens - num_visual, num_tokens, dtype=np.int32)
        positions = np.broadcast_to(np.arange(num_tokens, dtype=np.int32), (3, num_tokens))
        nothing = xp.zeros([num_visual, self.hidden_size], ops.cache_dtype)
        return MediaLayout(positions, np.isin(np.arange(num_tokens), rows), rows, nothing)
