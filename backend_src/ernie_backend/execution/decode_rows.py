"""The inputs of decode steps at fixed addresses, one row per sequence, sent to the GPU in one copy; knows no model and launches nothing.

Rows keep what does not change from step to step (parameters, block tables), and a sequence keeps its row from step to step, so that a step
costs the host a few numbers per row, also when some other sequence has just ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ernie_kernels import xp
from ernie_kernels.triton.sampling import FLOAT_COLUMNS, INTEGER_COLUMNS, SamplingRows, pack_rows
from ernie_kernels.xp import Tensor

from .fixed_memory import FixedMemory
from .sampler import sampling_inputs
from .sequence_state import SequenceState

EDITS_PER_ROW = 512
"""Room for logit_bias and forbidden ids, all rows together; a step with more than that is not run as a graph."""

_POSITION, _SLOT, _MASK = (INTEGER_COLUMNS.index(name) for name in ("position", "slot", "mask"))
_PADDING_FLOATS = tuple(1.0 if name in ("top_p", "repetition_penalty") else 0.0 for name in FLOAT_COLUMNS)  # temperature 0: greedy
_PADDING_INTEGERS = tuple(-1 if name in ("slot", "num_logprobs", "mask") else 0 for name in INTEGER_COLUMNS)

Lines = tuple[np.ndarray, np.ndarray]
"""Each row's line of the token counts and of the masks, int64 [rows]; −1: none."""


@dataclass(frozen=True, eq=False)
class Seating:
    """Which sequence sits in which row, and what follows for the step; made anew when one comes or goes."""

    scheduled: list[SequenceState]
    """In the scheduler's order."""
    rows: list[int]
    """Theirs."""
    states: list[SequenceState]
    """By row."""
    prompt_lengths: np.ndarray  # [rows] int32
    position_shifts: np.ndarray  # [rows] int32: of rotary positions behind images
    penalised: bool
    truncates: bool
    edits_logits: bool
    wants_logprobs: bool
    constrained: bool

    @classmethod
    def of(cls, scheduled: list[SequenceState], states: list[SequenceState]) -> Seating:
        row_of = {state: row for row, state in enumerate(states)}
        return cls(
            scheduled,
            [row_of[state] for state in scheduled],
            states,
            np.array([state.num_prompt_tokens for state in states], np.int32),
            np.array([state.position_shift for state in states], np.int32),
            penalised=any(state.penalised for state in states),
            truncates=any(state.truncates for state in states),
            edits_logits=any(state.edits_logits for state in states),
            wants_logprobs=any(state.sampling.logprobs is not None for state in states),
            constrained=any(state.constraint is not None for state in states),
        )


class DecodeRows:
    """The rows of decode steps."""

    def __init__(self, max_rows: int, max_blocks: int, block_size: int, masks: Tensor) -> None:
        """`masks` [max_rows, words]: where a step's masks will be (`DeviceSampler.send_masks`)."""
        shapes = {
            "integers": ("int64", (max_rows, len(INTEGER_COLUMNS))),
            "floats": ("float32", (max_rows, len(FLOAT_COLUMNS))),
            "edit_offsets": ("int32", (max_rows + 1,)),
            "token_ids": ("int32", (max_rows,)),
            "positions": ("int32", (max_rows,)),
            "context_lens": ("int32", (max_rows,)),
            "slot_mapping": ("int32", (max_rows,)),  # −1: padding
            "block_tables": ("int32", (max_rows, max_blocks)),  # last, so that a small step need not send all of it
        }
        self.block_size = block_size
        self._masks = masks
        self._every_row = np.arange(max_rows)
        self._memory = FixedMemory(shapes)
        self.host, self.device = self._memory.host, self._memory.device
        self.edit_ids = xp.zeros([EDITS_PER_ROW * max_rows], "int32")
        self.edit_values = xp.zeros([EDITS_PER_ROW * max_rows], "float32")
        self._seating = Seating.of([], [])
        self._tables: list[tuple[int, ...]] = [()] * max_rows
        """What each row of `block_tables` holds."""
        self._clear(0, max_rows)
        self._has_edits = False

    def sampling_rows(self, num_rows: int) -> SamplingRows:
        """The device's side of the first rows."""
        device = self.device
        floats, integers = device["floats"][:num_rows], device["integers"][:num_rows]
        return SamplingRows(floats, integers, device["edit_offsets"], self.edit_ids, self.edit_values, self._masks)

    def seat(self, scheduled: list[SequenceState]) -> Seating:
        """As many rows as sequences, from row 0; each keeps the row that it had, where that is possible."""
        if scheduled != self._seating.scheduled:  # states are compared by identity
            self._seating = self._reseat(scheduled)
        return self._seating

    def _reseat(self, scheduled: list[SequenceState]) -> Seating:
        count, before = len(scheduled), self._seating.states
        staying = set(before[:count]).intersection(scheduled)
        newcomers = (state for state in scheduled if state not in staying)
        states = [before[row] if row < len(before) and before[row] in staying else next(newcomers) for row in range(count)]
        for row, state in enumerate(states):
            if state not in staying:
                self._adopt(row, state)
        self._clear(count, len(before))
        return Seating.of(scheduled, states)

    def fill(self, seating: Seating, starts: Sequence[int], tables: Sequence[tuple[int, ...]], lines: Lines, num_rows: int) -> bool:
        """Write a step's rows, padded to `num_rows`, and send them. False: its edits do not fit, and nothing was sent.

        starts, tables: each sequence's number of computed tokens and block table, in the scheduler's order. lines: by row.
        """
        count, host, known = len(starts), self.host, self._tables
        if not self._set_edits(seating, lines):
            return False
        places = np.empty(count, np.int32)
        places[seating.rows] = starts
        host["context_lens"][:count] = places + 1
        host["positions"][:count] = places + seating.position_shifts
        host["integers"][:count, _POSITION] = places + 1 - seating.prompt_lengths
        host["integers"][:count, _SLOT], host["integers"][:count, _MASK] = lines
        host["token_ids"][:count] = [state.token_ids[-1] for state in seating.states]
        for row, table in zip(seating.rows, tables, strict=True):
            if table is not known[row]:
                known[row] = table
                host["block_tables"][row, : len(table)] = table
        blocks = host["block_tables"][self._every_row[:count], places // self.block_size]
        host["slot_mapping"][:count] = blocks * self.block_size + places % self.block_size
        self._memory.send(num_rows)
        return True

    def _adopt(self, row: int, state: SequenceState) -> None:
        sampling = state.sampling
        self.host["floats"][row] = [getattr(sampling, name) for name in FLOAT_COLUMNS]
        num_logprobs = -1 if sampling.logprobs is None else sampling.logprobs
        self.host["integers"][row] = [sampling.top_k, np.uint64(state.seed).view(np.int64), 0, -1, num_logprobs, -1]

    def _clear(self, start: int, stop: int) -> None:
        host = self.host
        host["floats"][start:stop] = _PADDING_FLOATS
        host["integers"][start:stop] = _PADDING_INTEGERS
        for name in ("token_ids", "positions", "context_lens"):
            host[name][start:stop] = 0
        host["slot_mapping"][start:stop] = -1

    def _set_edits(self, seating: Seating, lines: Lines) -> bool:
        if not seating.edits_logits:
            if self._has_edits:
                self.host["edit_offsets"][:] = 0
                self._has_edits = False
            return True
        packed = pack_rows(sampling_inputs(seating.states, with_masks=False), *lines)
        count = len(packed["edit_ids"])
        if count > self.edit_ids.shape[0]:
            return False
        offsets = self.host["edit_offsets"]
        offsets[: len(seating.states) + 1] = packed["edit_offsets"]
        offsets[len(seating.states) + 1 :] = count
        self._has_edits = True
        if count:
            xp.copy_(self.edit_ids[:count], xp.from_numpy(packed["edit_ids"]))
            xp.copy_(self.edit_values[:count], xp.from_numpy(packed["edit_values"]))
        return True
