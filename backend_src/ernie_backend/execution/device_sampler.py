"""Samples on the GPU and brings the tokens to the host without waiting; owns the memory for it, knows no model and no scheduling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ernie_kernels import xp
from ernie_kernels.triton import logprobs as logprob_kernels
from ernie_kernels.triton import sampling, token_counts
from ernie_kernels.triton.sampling import SamplingRows, SamplingWorkspace
from ernie_kernels.xp import Tensor

from ..core.outputs import GRAMMAR_TOO_COMPLEX, ModelRunnerOutput
from ..protocol import TokenLogprobs
from .constraint import GrammarTooComplexError, mask_words
from .sampler import sampling_inputs
from .sequence_state import SequenceState


@dataclass(frozen=True)
class _HostCopies:
    """Page-locked memory that a step's answer comes back in."""

    token_ids: Tensor  # [R] int32
    logprobs: Tensor  # [R, 1 + MAX_LOGPROBS] float32
    top_ids: Tensor  # [R, MAX_LOGPROBS] int32
    arrived: Any
    """The event after which they are there."""

    @classmethod
    def of(cls, max_rows: int, most: int) -> _HostCopies:
        token_ids, top_ids = xp.pinned([max_rows], "int32"), xp.pinned([max_rows, most], "int32")
        return cls(token_ids, xp.pinned([max_rows, 1 + most], "float32"), top_ids, xp.event())


@dataclass(frozen=True)
class PendingTokens:
    """A step whose tokens are on their way: row r is states[r]'s, whose placeholder stands at token_ids[places[r]]."""

    states: list[SequenceState]
    places: list[int]
    copies: _HostCopies
    with_logprobs: bool
    constrained: bool


class DeviceSampler:
    """One per runner; rows and slots are at most `max_rows`."""

    def __init__(self, vocab_size: int, max_rows: int) -> None:
        most = logprob_kernels.MAX_LOGPROBS
        self.vocab_size = vocab_size
        self.logits = xp.empty([max_rows, vocab_size], "float32")
        self.sampled = xp.zeros([max_rows], "int32")
        self._token_counts = xp.zeros([max_rows, vocab_size], "int32")
        shapes = sampling.workspace_shapes(max_rows, vocab_size)
        self._workspace = SamplingWorkspace(**{name: xp.empty(shape, dtype) for name, (shape, dtype) in shapes.items()})
        shapes = logprob_kernels.workspace_shapes(max_rows, vocab_size)
        scratch = {name: xp.empty(shape, dtype) for name, (shape, dtype) in shapes.items()}
        self._logprobs_workspace = logprob_kernels.LogprobsWorkspace(**scratch)
        self._logprobs = xp.zeros([max_rows, 1 + most], "float32")
        self._top_ids = xp.zeros([max_rows, most], "int32")
        self._copies = [_HostCopies.of(max_rows, most) for _ in range(2)]
        self._turn = 0
        self.masks = xp.zeros([max_rows, mask_words(vocab_size)], "int32")
        self._mask_ways: dict[int, list[Tensor]] = {}
        """By number of lines, page-locked; not to be sliced. Three: one may still be on its way, and a step that is no graph after all
        sends twice."""
        self._mask_turn = 0
        self._too_complex: set[int] = set()
        self._slots: dict[int, int] = {}
        self._free_slots = list(range(max_rows))

    def choose(self, rows: SamplingRows, num_rows: int, *, truncated: bool) -> None:
        """`sampled[:num_rows]` from `logits[:num_rows]`; only launches, so that it can be captured."""
        logits, chosen = self.logits[:num_rows], self.sampled[:num_rows]
        sampling.sample(logits, rows, self._token_counts, self._workspace, chosen, truncated=truncated, pdl=True)

    def send_masks(self, states: Sequence[SequenceState]) -> np.ndarray:
        """Each row's line of `masks`, −1 without one; sends the lines that there are. The tokens before must be known.

        A row whose grammar cannot be followed any further allows nothing, and so fails alone.
        """
        masked = [row for row, state in enumerate(states) if state.constraint is not None and not state.constraint.in_thought]
        lines = np.full(len(states), -1, np.int64)
        if not masked:
            return lines
        lines[masked] = np.arange(len(masked))
        size = min(1 << (len(masked) - 1).bit_length(), self.masks.shape[0])
        if size not in self._mask_ways:
            self._mask_ways[size] = [xp.pinned([size, self.masks.shape[1]], "int32") for _ in range(3)]
        self._mask_turn = (self._mask_turn + 1) % 3
        pinned = self._mask_ways[size][self._mask_turn]
        host = xp.host_view(pinned)
        for line, row in enumerate(masked):
            try:
                host[line] = states[row].allowed_mask()
            except GrammarTooComplexError:
                self._too_complex.add(states[row].sequence_id)
                host[line] = 0
        xp.copy_(self.masks[:size], pinned)
        return lines

    def pack(self, states: Sequence[SequenceState]) -> SamplingRows:
        """Rows of a step that is not a graph."""
        packed = sampling.pack_rows(sampling_inputs(states, with_masks=False), self.assign_slots(states), self.send_masks(states))
        if not len(packed["edit_ids"]):
            packed |= {"edit_ids": np.zeros(1, np.int32), "edit_values": np.zeros(1, np.float32)}  # an address to point to
        return SamplingRows(**{name: xp.from_numpy(array) for name, array in packed.items()}, masks=self.masks)

    def assign_slots(self, states: Sequence[SequenceState]) -> np.ndarray:
        """Each row's line of the token counts; −1 without penalties. A sequence that has none yet gets one, counted from its ids."""
        slots = np.full(len(states), -1, np.int64)
        present = {state.sequence_id for state in states}
        for row, state in enumerate(states):
            if not state.penalised:
                continue
            if state.sequence_id not in self._slots:
                if not self._free_slots:  # a preempted sequence's: it is counted again when it comes back
                    self._free_slots.append(self._slots.pop(next(other for other in self._slots if other not in present)))
                slot = self._slots[state.sequence_id] = self._free_slots.pop()
                ids = xp.from_numpy(np.array(state.token_ids, np.int32))
                token_counts.set_token_counts(self._token_counts, slot, ids, state.num_prompt_tokens, len(state.token_ids))
            slots[row] = self._slots[state.sequence_id]
        return slots

    def forget(self, sequence_ids: Sequence[int]) -> None:
        self._free_slots.extend(self._slots.pop(i) for i in sequence_ids if i in self._slots)

    def send(self, states: list[SequenceState], rows: SamplingRows | None, *, constrained: bool) -> PendingTokens:
        """Start the way back of what `choose` has chosen; each state gets a placeholder, −1 − its row, until the token is known. `rows`:
        what `choose` had, if any row wants log-probabilities. `constrained`: some row follows a grammar. Without states,
        what comes back says only that the step has ended."""
        self._turn = 1 - self._turn
        copies = self._copies[self._turn]
        xp.copy_(copies.token_ids, self.sampled)  # all rows: page-locked memory is not to be sliced
        if rows is not None:
            self._send_logprobs(len(states), rows, copies)
        copies.arrived.record()
        places = []
        for row, state in enumerate(states):
            places.append(len(state.token_ids))
            state.token_ids.append(-1 - row)
        return PendingTokens(states, places, copies, rows is not None, constrained)

    def _send_logprobs(self, count: int, rows: SamplingRows, copies: _HostCopies) -> None:
        results = (self._logprobs[:count], self._top_ids[:count])
        sampled = (self.logits[:count], rows.integers, self.sampled[:count])
        logprob_kernels.top_logprobs(*sampled, self._logprobs_workspace, *results)
        xp.copy_(copies.logprobs, self._logprobs)
        xp.copy_(copies.top_ids, self._top_ids)

    def receive(self, pending: PendingTokens) -> ModelRunnerOutput:
        """Wait for the tokens; placeholders become ids."""
        states, copies = pending.states, pending.copies
        copies.arrived.synchronize()
        token_ids = xp.host_view(copies.token_ids)[: len(states)].tolist()
        result = ModelRunnerOutput({}, {})
        if token_ids and min(token_ids) < 0:
            for row, token_id in enumerate(token_ids):
                if token_id < 0:
                    result.failed[states[row].sequence_id] = self._why_failed(states[row].sequence_id)
                    token_ids[row] = 0
        for state, place, token_id in zip(states, pending.places, token_ids, strict=True):
            state.token_ids[place] = token_id
            result.sampled[state.sequence_id] = token_id
        for sequence_id in result.failed:
            del result.sampled[sequence_id]
        if pending.constrained:
            for state in states:
                if state.sequence_id in result.sampled:
                    state.note(result.sampled[state.sequence_id])
        if pending.with_logprobs:
            for row, state in enumerate(states):
                if state.sampling.logprobs is not None:
                    result.logprobs[state.sequence_id] = _logprobs(copies, row, state.sampling.logprobs)
        return result

    def _why_failed(self, sequence_id: int) -> str:
        if sequence_id in self._too_complex:
            self._too_complex.remove(sequence_id)
            return GRAMMAR_TOO_COMPLEX
        return "the largest logit of this row is not finite: no token can be chosen"


def _logprobs(copies: _HostCopies, row: int, wanted: int) -> TokenLogprobs:
    line = xp.host_view(copies.logprobs)[row].tolist()
    return TokenLogprobs(line[0], tuple(xp.host_view(copies.top_ids)[row, :wanted].tolist()), tuple(line[1 : 1 + wanted]))
