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

from ..core.outputs import GRAMMAR_TOO_COMPLEX, ModelRunnerOutput, SampledToken
from ..protocol import TokenLogprobs
from .constraint import GrammarTooComplexError, mask_words
from .sampler import sampling_inputs
from .sequence_state import SequenceState

_NOT_FINITE = "the largest logit of this row is not finite: no token can be chosen"


@dataclass(frozen=True)
class _HostCopies:
    """Page-locked memory that a step's answer comes back in."""

    token_ids: Tensor  # [R] int32
    logprobs: Tensor  # [R, 1 + MAX_LOGPROBS] float32
    top_ids: Tensor  # [R, MAX_LOGPROBS] int32


@dataclass(frozen=True)
class PendingTokens:
    """A step whose tokens are on their way: row r is states[r]'s, whose placeholder stands at token_ids[places[r]]."""

    states: tuple[SequenceState, ...]
    places: tuple[int, ...]
    copies: _HostCopies
    arrived: Any


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
        copies = (([max_rows], "int32"), ([max_rows, 1 + most], "float32"), ([max_rows, most], "int32"))
        self._copies = [_HostCopies(*(xp.pinned(shape, dtype) for shape, dtype in copies)) for _ in range(2)]
        self._turn = 0
        words = mask_words(vocab_size)
        self.masks = xp.zeros([max_rows, words], "int32")
        self._pinned_masks = [xp.pinned([max_rows, words], "int32") for _ in range(2)]
        self._mask_turn = 0
        self._too_complex: set[int] = set()
        self._slots: dict[int, int] = {}
        self._free_slots = list(range(max_rows))

    def is_truncated(self, states: Sequence[SequenceState]) -> bool:
        """Whether any row needs the kernels that look for the survivors of min_p, top_k and top_p."""
        return any(state.truncates for state in states)

    def choose(self, rows: SamplingRows, num_rows: int, *, truncated: bool) -> None:
        """`sampled[:num_rows]` from `logits[:num_rows]`; only launches, so that it can be captured."""
        logits, chosen = self.logits[:num_rows], self.sampled[:num_rows]
        sampling.sample(logits, rows, self._token_counts, self._workspace, chosen, truncated=truncated, pdl=True)

    def send_masks(self, states: Sequence[SequenceState]) -> np.ndarray:
        """Each row's line of `masks`, −1 without one; sends the lines that there are. The tokens before must be known.

        A row whose grammar cannot be followed any further allows nothing, and so fails alone.
        """
        lines = np.full(len(states), -1, np.int64)
        count = 0
        for row, state in enumerate(states):
            if state.constraint is None or state.constraint.in_thought:
                continue
            if count == 0:
                self._mask_turn = 1 - self._mask_turn  # the other one may still be on its way
            line = xp.host_view(self._pinned_masks[self._mask_turn])[count]
            try:
                line[:] = state.constraint.mask()
            except GrammarTooComplexError:
                self._too_complex.add(state.sequence_id)
                line[:] = 0
            lines[row] = count
            count += 1
        if count:
            xp.copy_(self.masks[:count], self._pinned_masks[self._mask_turn][:count])
        return lines

    def pack(self, states: Sequence[SequenceState], slots: np.ndarray, mask_lines: np.ndarray) -> SamplingRows:
        """Rows of a step that is not a graph."""
        packed = sampling.pack_rows(sampling_inputs(states, with_masks=False), slots, mask_lines)
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

    def send(self, states: Sequence[SequenceState], rows: SamplingRows) -> PendingTokens:
        """Start the way back of what `choose` has chosen; each state gets a placeholder, −1 − its row, until the token is known."""
        count = len(states)
        self._turn = 1 - self._turn
        copies = self._copies[self._turn]
        xp.copy_(copies.token_ids[:count], self.sampled[:count])
        if any(state.sampling.logprobs is not None for state in states):
            results = (self._logprobs[:count], self._top_ids[:count])
            sampled = (self.logits[:count], rows.integers, self.sampled[:count])
            logprob_kernels.top_logprobs(*sampled, self._logprobs_workspace, *results)
            xp.copy_(copies.logprobs[:count], results[0])
            xp.copy_(copies.top_ids[:count], results[1])
        arrived = xp.record_event()
        places = tuple(len(state.token_ids) for state in states)
        for row, state in enumerate(states):
            state.token_ids.append(-1 - row)
        return PendingTokens(tuple(states), places, copies, arrived)

    def receive(self, pending: PendingTokens) -> ModelRunnerOutput:
        """Wait for the tokens; placeholders become ids."""
        pending.arrived.synchronize()
        sampled: dict[int, SampledToken] = {}
        failed: dict[int, str] = {}
        token_ids = xp.host_view(pending.copies.token_ids)[: len(pending.states)].tolist()
        for row, (state, place, token_id) in enumerate(zip(pending.states, pending.places, token_ids, strict=True)):
            state.token_ids[place] = max(token_id, 0)
            if token_id < 0:
                too_complex = state.sequence_id in self._too_complex
                self._too_complex.discard(state.sequence_id)
                failed[state.sequence_id] = GRAMMAR_TOO_COMPLEX if too_complex else _NOT_FINITE
            else:
                state.note(token_id)
                wanted = state.sampling.logprobs
                sampled[state.sequence_id] = SampledToken(token_id, None if wanted is None else _logprobs(pending.copies, row, wanted))
        return ModelRunnerOutput(sampled, failed)


def _logprobs(copies: _HostCopies, row: int, wanted: int) -> TokenLogprobs:
    line = xp.host_view(copies.logprobs)[row].tolist()
    return TokenLogprobs(line[0], tuple(xp.host_view(copies.top_ids)[row, :wanted].tolist()), tuple(line[1 : 1 + wanted]))
