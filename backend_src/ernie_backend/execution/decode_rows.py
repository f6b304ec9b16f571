"""The inputs of decode steps at fixed addresses, one row per sequence, sent to the GPU in one copy; knows no model and launches nothing.

Rows keep what does not change from step to step (parameters, block tables), so that a step costs the host a few numbers per row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ernie_kernels import xp
from ernie_kernels.triton.sampling import FLOAT_COLUMNS, INTEGER_COLUMNS, SamplingRows, pack_rows
from ernie_kernels.xp import Tensor

from ..core.outputs import ScheduledSequence
from .sampler import sampling_inputs
from .sequence_state import SequenceState

EDITS_PER_ROW = 512
"""Room for logit_bias and forbidden ids, all rows together; a step with more than that is not run as a graph."""

_POSITION, _SLOT, _MASK = (INTEGER_COLUMNS.index(name) for name in ("position", "slot", "mask"))
_PADDING_FLOATS = tuple(1.0 if name in ("top_p", "repetition_penalty") else 0.0 for name in FLOAT_COLUMNS)  # temperature 0: greedy
_PADDING_INTEGERS = tuple(-1 if name in ("slot", "num_logprobs", "mask") else 0 for name in INTEGER_COLUMNS)


class DecodeRows:
    """Host arrays, their page-locked copies (two, since one may still be on its way) and the device's memory, all with one layout."""

    def __init__(self, max_rows: int, max_blocks: int, masks: Tensor) -> None:
        """`masks` [max_rows, words]: where a step's masks will be (`DeviceSampler.send_masks`)."""
        shapes = {
            "integers": ("int64", (max_rows, len(INTEGER_COLUMNS))),
            "floats": ("float32", (max_rows, len(FLOAT_COLUMNS))),
            "edit_offsets": ("int32", (max_rows + 1,)),
            "token_ids": ("int32", (max_rows,)),
            "positions": ("int32", (max_rows,)),
            "context_lens": ("int32", (max_rows,)),
            "block_tables": ("int32", (max_rows, max_blocks)),  # last, so that a small step need not send all of it
        }
        words = {name: math.prod(shape) * np.dtype(dtype).itemsize // 4 for name, (dtype, shape) in shapes.items()}
        starts = dict(zip(words, np.cumsum([0, *(-(-count // 4) * 4 for count in words.values())]).tolist(), strict=False))  # of 16 bytes
        total = starts["block_tables"] + words["block_tables"]
        self.max_blocks = max_blocks
        self._masks = masks
        self._header_words = starts["block_tables"]
        self._staging = np.zeros(total, np.int32)
        self._pinned = [xp.pinned([total], "int32") for _ in range(2)]
        self._device = xp.zeros([total], "int32")
        self._turn = 0
        self.host = {n: self._staging[starts[n] : starts[n] + words[n]].view(dtype).reshape(shape) for n, (dtype, shape) in shapes.items()}
        self.device: dict[str, Tensor] = {
            n: xp.reshape(xp.bitcast(self._device[starts[n] : starts[n] + words[n]], dtype), shape) for n, (dtype, shape) in shapes.items()
        }
        self.edit_ids = xp.zeros([EDITS_PER_ROW * max_rows], "int32")
        self.edit_values = xp.zeros([EDITS_PER_ROW * max_rows], "float32")
        self._owners: list[SequenceState | None] = [None] * max_rows
        self._blocks: list[tuple[int, ...]] = [()] * max_rows
        self._clear(0, max_rows)
        self._num_filled = 0
        self._has_edits = False

    def sampling_rows(self, num_rows: int) -> SamplingRows:
        """The device's side of the first rows."""
        device = self.device
        floats, integers = device["floats"][:num_rows], device["integers"][:num_rows]
        return SamplingRows(floats, integers, device["edit_offsets"], self.edit_ids, self.edit_values, self._masks)

    def fill(
        self,
        scheduled: Sequence[ScheduledSequence],
        states: Sequence[SequenceState],
        lines: tuple[np.ndarray, np.ndarray],
        num_rows: int,
    ) -> bool:
        """Write a step's rows, padded to `num_rows`, and send them; `lines`: of the token counts and of the masks, [rows] each. False: its
        edits do not fit, and nothing was sent."""
        count, host = len(scheduled), self.host
        if not self._set_edits(states, *lines):
            return False
        for row, (sequence, state) in enumerate(zip(scheduled, states, strict=True)):
            if self._owners[row] is not state:
                self._adopt(row, state)
            if self._blocks[row] != sequence.block_ids:
                self._blocks[row] = sequence.block_ids
                host["block_tables"][row, : len(sequence.block_ids)] = sequence.block_ids
        host["token_ids"][:count] = [state.token_ids[-1] for state in states]
        host["positions"][:count] = [sequence.num_computed_tokens for sequence in scheduled]
        host["context_lens"][:count] = host["positions"][:count] + 1
        host["integers"][:count, _POSITION] = [state.num_output_tokens for state in states]
        host["integers"][:count, _SLOT], host["integers"][:count, _MASK] = lines
        if count < self._num_filled:
            self._clear(count, self._num_filled)
        self._num_filled = count
        self._send(num_rows)
        return True

    def _send(self, num_rows: int) -> None:
        words = self._header_words + num_rows * self.max_blocks
        self._turn = 1 - self._turn
        pinned = self._pinned[self._turn]
        xp.host_view(pinned)[:words] = self._staging[:words]
        xp.copy_(self._device[:words], pinned[:words])

    def _adopt(self, row: int, state: SequenceState) -> None:
        sampling = state.sampling
        self._owners[row] = state
        self.host["floats"][row] = [getattr(sampling, name) for name in FLOAT_COLUMNS]
        num_logprobs = -1 if sampling.logprobs is None else sampling.logprobs
        self.host["integers"][row] = [sampling.top_k, np.uint64(state.seed).view(np.int64), 0, -1, num_logprobs, -1]

    def _clear(self, start: int, stop: int) -> None:
        host = self.host
        host["floats"][start:stop] = _PADDING_FLOATS
        host["integers"][start:stop] = _PADDING_INTEGERS
        for name in ("token_ids", "positions", "context_lens"):
            host[name][start:stop] = 0
        self._owners[start:stop] = [None] * (stop - start)

    def _set_edits(self, states: Sequence[SequenceState], slots: np.ndarray, mask_lines: np.ndarray) -> bool:
        if not any(state.edits_logits for state in states):
            if self._has_edits:
                self.host["edit_offsets"][:] = 0
                self._has_edits = False
            return True
        packed = pack_rows(sampling_inputs(states, with_masks=False), slots, mask_lines)
        count = len(packed["edit_ids"])
        if count > self.edit_ids.shape[0]:
            return False
        offsets = self.host["edit_offsets"]
        offsets[: len(states) + 1] = packed["edit_offsets"]
        offsets[len(states) + 1 :] = count
        self._has_edits = True
        if count:
            xp.copy_(self.edit_ids[:count], xp.from_numpy(packed["edit_ids"]))
            xp.copy_(self.edit_values[:count], xp.from_numpy(packed["edit_values"]))
        return True
