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
class InputBatch:
    """T tokens of R sequences, in scheduling order."""

    token_ids: Tensor  # [T] int32
    positions: Tensor  # [T] int32
    slot_mapping: Tensor  # [T] int32: block · block_size + offset
    attention: ops.AttentionMetadata
    logits_rows: Tensor | None  # [number of sampling sequences] int32: each one's last token; None if there are none
    sampling_sequence_ids: tuple[int, ...]


def build_input_batch(step: SchedulerOutput, states: Mapping[int, SequenceState], block_size: int) -> InputBatch:
    """The tensors of a step with at least one token. The scheduler's promises are asserted, not repaired."""
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
    positions = np.arange(len(token_ids), dtype=np.int32) + (starts - cu_seqlens_q[:-1])[row]
    slot_mapping = block_tables[row, positions // block_size] * block_size + positions % block_size
    num_single = int(np.argmax(counts > 1))  # 0 as well where none has more
    last_rows = cu_seqlens_q[1:][[s.samples for s in scheduled]] - 1
    return InputBatch(
        token_ids=xp.from_numpy(np.array(token_ids, np.int32)),
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
            num_single=num_single,
            rest_cu_seqlens_q=xp.from_numpy(cu_seqlens_q[num_single:] - num_single) if num_single else None,
        ),
        logits_rows=xp.from_numpy(last_rows) if last_rows.size else None,
        sampling_sequence_ids=tuple(s.sequence_id for s in scheduled if s.samples),
    )
