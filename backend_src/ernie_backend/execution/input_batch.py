"""One step as tensors: which tokens, at which positions, into which cache slots; never leaves execution."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ernie_kernels import ops, xp
from ernie_kernels.xp import Tensor

from ..core.outputs import SchedulerOutput
from .sequence_state import SequenceState


@dataclass(frozen=True)
class MediaBatch:
    """What a step needs besides if some of its T tokens belong to images or videos."""

    positions: Tensor  # [3, T] int32: frame, row, column; equal for text
    text_rows: Tensor  # int32: tokens of text …
    visual_rows: Tensor  # … and of images and videos, their delimiters included; together 0 … T − 1
    embedding_rows: Tensor | None  # [M] int32: the placeholders; None if there are only delimiters
    embeddings: Tensor | None  # [M, hidden]: what stands there instead of the placeholder's embedding


@dataclass(frozen=True)
class MediaLayout:
    """The numbers of a `MediaBatch` on the host, and the rows that are on the device already."""

    positions: np.ndarray  # [3, T] int32
    visual: np.ndarray  # [T] bool
    embedding_rows: np.ndarray  # [M] int32
    embeddings: Tensor | None  # [M, hidden]; None if M is 0

    def upload(self) -> MediaBatch:
        return MediaBatch(
            positions=xp.from_numpy(self.positions),
            text_rows=xp.from_numpy(np.flatnonzero(~self.visual).astype(np.int32)),
            visual_rows=xp.from_numpy(np.flatnonzero(self.visual).astype(np.int32)),
            embedding_rows=None if self.embeddings is None else xp.from_numpy(self.embedding_rows),
            embeddings=self.embeddings,
        )


@dataclass(frozen=True)
class InputBatch:
    """T tokens of R sequences, in scheduling order."""

    token_ids: Tensor  # [T] int32
    positions: Tensor  # [T] int32: how far rotary positions turn, behind an image less than the tokens before; not read if `media` is given
    slot_mapping: Tensor  # [T] int32: block · block_size + offset
    attention: ops.AttentionMetadata
    logits_rows: Tensor | None  # [number of sampling sequences] int32: each one's last token; None if there are none
    media: MediaBatch | None = None


@dataclass(frozen=True)
class StepLayout:
    """The numbers of an `InputBatch` on the host."""

    token_ids: np.ndarray  # [T] int32
    positions: np.ndarray  # [T] int32
    slot_mapping: np.ndarray  # [T] int32
    cu_seqlens_q: np.ndarray  # [R + 1] int32
    context_lens: np.ndarray  # [R] int32
    block_tables: np.ndarray  # [R, blocks of the longest] int32
    last_rows: np.ndarray  # [number of sampling sequences] int32
    num_single: int
    """As `AttentionMetadata` has it."""
    max_query_len: int


def lay_out(step: SchedulerOutput, states: Mapping[int, SequenceState], block_size: int, *, by_media: bool = False) -> StepLayout:
    """A step with at least one token. The scheduler's promises are asserted, not repaired. `by_media`: positions are not read."""
    scheduled = step.scheduled
    token_ids: list[int] = []
    blocks: list[int] = []
    for sequence in scheduled:
        start = sequence.num_computed_tokens
        stop = start + sequence.num_scheduled_tokens
        known = states[sequence.sequence_id].token_ids
        assert start < stop <= len(known) and sequence.samples == (stop == len(known)), (sequence, len(known))
        used = -(-stop // block_size)
        assert used <= len(sequence.block_ids), (sequence, block_size)
        token_ids += known[start:stop]
        blocks += sequence.block_ids[:used]
    counts = np.array([s.num_scheduled_tokens for s in scheduled], np.int32)
    starts = np.array([s.num_computed_tokens for s in scheduled], np.int32)
    context_lens = starts + counts
    cu_seqlens_q = np.zeros(len(scheduled) + 1, np.int32)
    np.cumsum(counts, out=cu_seqlens_q[1:])
    blocks_used = -(-context_lens // block_size)
    block_tables = np.zeros((len(scheduled), blocks_used.max()), np.int32)
    block_tables[np.arange(block_tables.shape[1]) < blocks_used[:, None]] = blocks
    row = np.repeat(np.arange(len(scheduled)), counts)  # of each token
    places = np.arange(len(token_ids), dtype=np.int32) + (starts - cu_seqlens_q[:-1])[row]
    return StepLayout(
        token_ids=np.array(token_ids, np.int32),
        positions=places if by_media else _rotary_positions(step, states, places, cu_seqlens_q),
        slot_mapping=block_tables[row, places // block_size] * block_size + places % block_size,
        cu_seqlens_q=cu_seqlens_q,
        context_lens=context_lens,
        block_tables=block_tables,
        last_rows=cu_seqlens_q[1:][[s.samples for s in scheduled]] - 1,
        num_single=int(np.argmax(counts > 1)),  # 0 as well where none has more
        max_query_len=int(counts.max()),
    )


def upload(layout: StepLayout, media: MediaLayout | None = None) -> InputBatch:
    """The same on the device."""
    single, bounds = layout.num_single, layout.cu_seqlens_q
    return InputBatch(
        token_ids=xp.from_numpy(layout.token_ids),
        positions=xp.from_numpy(layout.positions),
        slot_mapping=xp.from_numpy(layout.slot_mapping),
        attention=ops.AttentionMetadata(
            cu_seqlens_q=xp.from_numpy(bounds),
            context_lens=xp.from_numpy(layout.context_lens),
            block_tables=xp.from_numpy(layout.block_tables),
            cu_seqlens_q_host=bounds,
            context_lens_host=layout.context_lens,
            block_tables_host=layout.block_tables,
            max_query_len=layout.max_query_len,
            max_context_len=int(layout.context_lens.max()),
            num_single=single,
            rest_cu_seqlens_q=xp.from_numpy(bounds[single:] - single) if single else None,
        ),
        logits_rows=xp.from_numpy(layout.last_rows) if layout.last_rows.size else None,
        media=None if media is None else media.upload(),
    )


def build_input_batch(
    step: SchedulerOutput, states: Mapping[int, SequenceState], block_size: int, media: MediaLayout | None = None
) -> InputBatch:
    """`lay_out` and `upload`."""
    return upload(lay_out(step, states, block_size, by_media=media is not None), media)


def _rotary_positions(step: SchedulerOutput, states: Mapping[int, SequenceState], places: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """Of the tokens of a step that are all text: their places, or fewer behind images."""
    positions = places
    for row, sequence in enumerate(step.scheduled):
        seen = states[sequence.sequence_id].media
        if seen is not None:
            positions = places.copy() if positions is places else positions
            start = sequence.num_computed_tokens
            positions[bounds[row] : bounds[row + 1]] = seen.positions(start, start + sequence.num_scheduled_tokens)[0]
    return positions
