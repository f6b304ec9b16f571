"""Executes steps: keeps the sequences' token ids and the caches, runs the model, samples; decides nothing about scheduling or finishing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from ernie_kernels import ops, xp

from ..config import EngineConfig, ModelConfig
from ..core.outputs import ModelRunnerOutput, NewSequence, ScheduledSequence, SchedulerOutput
from ..model_config import MERGE_SIZE
from ..protocol import MediaItem, MediaKind, SamplingParams
from .cached_model import CachedModel
from .encoder_cache import EncoderCache
from .input_batch import InputBatch, build_input_batch
from .kv_cache import BYTES_PER_ELEMENT, allocate_kv_cache
from .media_inputs import MediaInputs
from .memory import encoder_cache_bytes
from .models import LanguageModel
from .models.vision_language import VisionLanguageModel
from .sampler import sample
from .sequence_media import SequenceMedia
from .sequence_state import SequenceState

if TYPE_CHECKING:
    from .device_sampler import PendingTokens
    from .graph_runner import GraphRunner

_SEED_STEP = 0x9E3779B97F4A7C15
"""Odd, so that 2⁶⁴ unseeded sequences in a row have different seeds."""

_WARM_UP_ID = -1


class ModelRunner:
    """Owns the KV cache and, from a sequence's first step until it is finished, its ids: a preempted one recomputes from them."""

    def __init__(self, model: LanguageModel, model_config: ModelConfig, engine_config: EngineConfig, num_blocks: int) -> None:
        """`engine_config` must be resolved; the cache of `num_blocks` blocks is allocated here."""
        assert engine_config.max_model_len is not None and engine_config.max_num_batched_tokens is not None, "call resolved() first"
        ops.set_batch_invariant(engine_config.deterministic)
        self.model_config = model_config
        self.media: MediaInputs | None = None
        if isinstance(model, VisionLanguageModel):
            kept = EncoderCache(encoder_cache_bytes(engine_config, model_config), model_config.hidden_size * BYTES_PER_ELEMENT)
            self.media = MediaInputs(model.encode, kept)
        self.cpu_threads = engine_config.cpu_threads
        self.block_size = engine_config.block_size_tokens
        self.num_blocks = num_blocks
        self.max_tokens_in_step = min(engine_config.max_num_batched_tokens, engine_config.max_model_len, num_blocks * self.block_size)
        caches = allocate_kv_cache(model_config, num_blocks, self.block_size)
        cos_sin = ops.rope_table(model_config.head_dim, model_config.rope_theta, engine_config.max_model_len)
        self.model = CachedModel(model, caches, cos_sin)
        self.states: dict[int, SequenceState] = {}
        self.engine_seed = engine_config.seed
        self.num_unseeded = 0
        self.steps_ahead = 1 if xp.on_gpu else 0
        self.graphs: GraphRunner | None = None
        if xp.on_gpu:
            from .graph_runner import GraphRunner  # imports the Triton language

            self.graphs = GraphRunner(self.model, model_config, engine_config)

    def execute(self, step: SchedulerOutput) -> ModelRunnerOutput:
        """Compute the step's tokens and sample where the scheduler says so. An exception means that the whole step failed."""
        return self.collect(self.launch(step))

    def launch(self, step: SchedulerOutput) -> PendingTokens | ModelRunnerOutput:
        """Start a step: on a GPU without waiting for it, nor for the tokens of the step before. `collect` in the order of launches, at most
        two at a time."""
        for sequence_id in step.finished_sequence_ids:
            state = self.states.pop(sequence_id, None)
            if state is not None and self.media is not None:
                self.media.forget(state)
        self._append(step)  # first: these ids are told once, and a new sequence may fail
        for new in step.new_sequences:
            self.states[new.sequence_id] = self._state(new)
        if self.graphs is not None:
            self.graphs.sampler.forget(step.finished_sequence_ids)
        if not step.scheduled:
            return ModelRunnerOutput({}, {})
        if self.graphs is not None:
            return self.graphs.launch(step, self.states, self.media)
        media = self.media.prepare(step, self.states) if self.media is not None and self.media.concerns(step) else None
        sampling = [self.states[s.sequence_id] for s in step.scheduled if s.samples]
        return self._compute(build_input_batch(step, self.states, self.block_size, media), sampling)

    def collect(self, launched: PendingTokens | ModelRunnerOutput) -> ModelRunnerOutput:
        """What a launched step has chosen; waits for it."""
        if isinstance(launched, ModelRunnerOutput):
            return launched
        assert self.graphs is not None
        return self.graphs.sampler.receive(launched)

    def launches(self, num_rows: int) -> tuple[Callable[..., AbstractContextManager[None]], Callable[[], None]]:
        """For profiling, on a GPU: how to observe the launch of kernels, and a function that launches those of a decode step of the rows
        that were sent last, one by one."""
        assert self.graphs is not None, "a CPU launches no kernels"
        return self.graphs.launches(num_rows)

    def warm_up(self, batch_sizes: Sequence[int] | None = None, prompt_lengths: Sequence[int] | None = None) -> None:
        """Compile what is compiled at first use, set the number of threads; on a GPU capture the graphs of `batch_sizes` and compute
        prompts of `prompt_lengths` (None: of every kind). Writes into the first blocks, which hold nothing yet."""
        ops.warm_up(self.cpu_threads)
        if self.media is not None:
            self._warm_up_media()
        if self.graphs is not None:
            self.graphs.warm_up(batch_sizes, prompt_lengths, self.max_tokens_in_step)
            return
        length = min(16, self.max_tokens_in_step)
        blocks = tuple(range(-(-length // self.block_size)))
        sampling = SamplingParams(max_tokens=2, temperature=0.8, top_p=0.9, logprobs=1)
        new = NewSequence(_WARM_UP_ID, (0,) * max(1, length - 1), sampling, seed=0)
        first = SchedulerOutput((new,), (ScheduledSequence(_WARM_UP_ID, 0, len(new.prompt_token_ids), blocks, samples=True),), ())
        if self.execute(first).sampled and length > 1:
            self.execute(SchedulerOutput((), (ScheduledSequence(_WARM_UP_ID, length - 1, 1, blocks, samples=True),), ()))
        del self.states[_WARM_UP_ID]

    def recover(self) -> None:
        """Compute one token in the first block, which must hold nothing: raises if the device computes nothing any more."""
        self.first_token()

    def first_token(self) -> ModelRunnerOutput:
        """What the model says to token 0 alone, computed in the first block, which must hold nothing."""
        new = NewSequence(_WARM_UP_ID, (0,), SamplingParams(max_tokens=1), seed=0)
        said = self.execute(SchedulerOutput((new,), (ScheduledSequence(_WARM_UP_ID, 0, 1, (0,), samples=True),), ()))
        self.execute(SchedulerOutput((), (), (_WARM_UP_ID,)))
        return said

    def _warm_up_media(self) -> None:
        """A prompt with a picture of a multiple of 16 patches, and one with another: kernels tell the two apart."""
        assert self.media is not None and self.model_config.vision is not None
        sampling = SamplingParams(max_tokens=2)
        for grid in ((1, 4, 4), (1, 4, 6)):
            count = grid[1] * grid[2] // MERGE_SIZE**2
            if count + 2 > self.max_tokens_in_step:
                return
            pixels = bytes(grid[1] * grid[2] * self.model_config.vision.patch_width)
            item = MediaItem(MediaKind.IMAGE, pixels, grid, 1, count, str(grid).encode())
            new = NewSequence(_WARM_UP_ID, (0,) * (count + 2), sampling, seed=0, media=(item,))
            blocks = tuple(range(-(-(count + 2) // self.block_size)))
            self.execute(SchedulerOutput((new,), (ScheduledSequence(_WARM_UP_ID, 0, count + 2, blocks, samples=True),), ()))
            self.execute(SchedulerOutput((), (), (_WARM_UP_ID,)))
        self.media.cache.clear()

    def _compute(self, batch: InputBatch, sampling: list[SequenceState]) -> ModelRunnerOutput:
        hidden = self.model.forward(batch)
        if batch.logits_rows is None:
            return ModelRunnerOutput({}, {})
        logits = self.model.logits(xp.take(hidden, batch.logits_rows, axis=0))
        return sample(logits, sampling)

    def _state(self, new: NewSequence) -> SequenceState:
        assert self.media is not None or not new.media, "preprocess refuses images for a model that does not see"
        media = SequenceMedia(new.media, new.prompt_token_ids, self.model_config) if new.media else None
        state = SequenceState(new, self._seed(new), self.model_config.vocab_size, media)
        if media is not None and self.media is not None:
            self.media.meet(state)
        return state

    def _append(self, step: SchedulerOutput) -> None:
        """Ids that the scheduler has added itself; whoever counts tokens on the device counts anew."""
        for sequence_id, token_ids in step.appended_token_ids.items():
            self.states[sequence_id].append(token_ids)
        if step.appended_token_ids and self.graphs is not None:
            self.graphs.sampler.forget(tuple(step.appended_token_ids))

    def _seed(self, new: NewSequence) -> int:
        """The request's seed, else the next of the engine's own: the same requests in the same order draw the same again."""
        if new.seed is not None:
            return new.seed
        self.num_unseeded += 1
        return self.engine_seed + self.num_unseeded * _SEED_STEP
