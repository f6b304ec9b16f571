"""One step as tensors: which tokens, at which positions, into which cache slots; never leaves execution."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ernie_kernels import ops, xp
from ernie_kernels.xp import Tensor

from ..core.outputs import ScheduledSequence, SchedulerOutput
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
class InputBatch:
    """T tokens of R sequences, in scheduling order."""

    token_ids: Tensor  # [T] int32
    positions: Tensor  # [T] int32: how far rotary positions turn; behind an image less than the number of tokens before
    slot_mapping: Tensor  # [T] int32: block · block_size + offset
    attention: ops.AttentionMetadata
    logits_rows: Tensor | None  # [number of sampling sequences] int32: each one's last token; None if there are none
    sampling_sequence_ids: tuple[int, ...]
    media: MediaBatch | None = None


def build_input_batch(
    step: SchedulerOutput, states: Mapping[int, SequenceState], block_size: int, media: MediaBatch | None = None
) -> InputBatch:
    """The tensors of a step with at least one token. The scheduler's promises are asserted, not repaired."""
    scheduled = step.scheduled
    counts = np.array([s.num_scheduled_tokens for s in scheduled], np.int32)
    cu_seqlens_q = np.zeros(len(scheduled) + 1, np.int32)
    np.cumsum(counts, out=cu_seqlens_q[1:])
    token_ids = np.empty(cu_seqlens_q[-1], np.int32)
    positions = np.empty_like(token_ids)
    slot_mapping = np.empty_like(token_ids)
    block_tables = np.zeros((len(scheduled), max(_blocks_used(s, block_size) for s in scheduled)), np.int32)
    for row, sequence in enumerate(scheduled):
        start = sequence.num_computed_tokens
        stop = start + sequence.num_scheduled_tokens
        state = states[sequence.sequence_id]
        known = state.token_ids
        assert sequence.num_scheduled_tokens > 0 and stop <= len(known) and sequence.samples == (stop == len(known)), (sequence, len(known))
        used = _blocks_used(sequence, block_size)
        assert used <= len(sequence.block_ids), (sequence, block_size)
        block_tables[row, :used] = sequence.block_ids[:used]
        here = slice(cu_seqlens_q[row], cu_seqlens_q[row + 1])
        token_ids[here] = known[start:stop]
        at = np.arange(start, stop, dtype=np.int32)
        positions[here] = at if state.media is None else state.media.positions(start, stop)[0]
        slot_mapping[here] = block_tables[row, at // block_size] * block_size + at % block_size
    context_lens = np.array([s.num_computed_tokens + s.num_scheduled_tokens for s in scheduled], np.int32)
    last_rows = np.array([cu_seqlens_q[row + 1] - 1 for row, s in enumerate(scheduled) if s.samples], np.int32)
    return InputBatch(
        token_ids=xp.from_numpy(token_ids),
        positions=xp.from_numpy(positions),
        slot_mapping=xp.from_numpy(slot_mapping),
        attention=ops.AttentionMetadata(
            cu_seqlens_q=xp.from_numpy(cu_seqlens_q),
            context_lens=xp.from_numpy(context_lens),
            block_tables=xp.from_numpy(block_tables),
            cu_seqlens_q_host=cu_seqlens_q,
            context_lens_host=context_lens,
            block_tables_host=block_tables,
            max_query_len=int(counts.max()),
            max_context_len=int(context_lens.max()),
        ),
        logits_rows=xp.from_numpy(last_rows) if last_rows.size else None,
        sampling_sequence_ids=tuple(s.sequence_id for s in scheduled if s.samples),
        media=media,
    )


def _blocks_used(sequence: ScheduledSequence, block_size: int) -> int:
    return -(-(sequence.num_computed_tokens + sequence.num_scheduled_tokens) // block_size)
