"""What a step needs of images and videos: encodes an item when its first token is scheduled; knows no scheduling and no language model."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ernie_kernels import xp
from ernie_kernels.xp import Tensor

from ..core.outputs import ScheduledSequence, SchedulerOutput
from ..protocol import MediaItem
from .encoder_cache import EncoderCache
from .input_batch import MediaLayout
from .sequence_state import SequenceState


class MediaInputs:
    """Owns the encoder's cache."""

    def __init__(self, encode: Callable[[MediaItem], Tensor], cache: EncoderCache) -> None:
        self.encode = encode
        self.cache = cache
        self._visual_ends: dict[int, int] = {}
        """Of the living sequences that have images or videos: how far these go."""

    def meet(self, state: SequenceState) -> None:
        """A sequence with images or videos has come."""
        assert state.media is not None
        self._visual_ends[state.sequence_id] = state.media.visual_end

    def concerns(self, step: SchedulerOutput) -> bool:
        """Whether a token of the step may be visual. Costs nothing where no living sequence has seen anything."""
        ends = self._visual_ends
        return bool(ends) and any(s.num_computed_tokens < ends.get(s.sequence_id, 0) for s in step.scheduled)

    def prepare(self, step: SchedulerOutput, states: Mapping[int, SequenceState]) -> MediaLayout | None:
        """Positions, kinds and encoded rows of the step's tokens, in its order; None: they are all text."""
        ranges = [(states[s.sequence_id], s.num_computed_tokens, s.num_computed_tokens + s.num_scheduled_tokens) for s in step.scheduled]
        visual = np.concatenate(
            [np.zeros(stop - start, bool) if state.media is None else state.media.visual(start, stop) for state, start, stop in ranges]
        )
        if not visual.any():
            return None
        rows, parts, first = [], [], 0
        for scheduled, (state, start, stop) in zip(step.scheduled, ranges, strict=True):
            if state.media is not None:
                for at, part in self._parts(scheduled, state, start, stop):
                    rows.append(np.arange(first + at - start, first + at - start + part.shape[0], dtype=np.int32))
                    parts.append(part)
            first += stop - start
        positions = np.concatenate([_positions(state, start, stop) for state, start, stop in ranges], axis=1)
        return MediaLayout(positions, visual, np.concatenate(rows or [np.zeros(0, np.int32)]), xp.concat(parts, axis=0) if parts else None)

    def _parts(self, scheduled: ScheduledSequence, state: SequenceState, start: int, stop: int) -> list[tuple[int, Tensor]]:
        """(place in the sequence, rows) of every item that has tokens in [start, stop)."""
        assert state.media is not None
        found = []
        for item in state.media.items:
            end = item.start + item.num_tokens
            if item.start < stop and end > start:
                encoded = self.cache.hold(item, scheduled.sequence_id, self.encode)
                begin = max(start, item.start)
                found.append((begin, encoded[begin - item.start : min(stop, end) - item.start]))
                if end <= stop and not any(later.content_hash == item.content_hash and later.start >= end for later in state.media.items):
                    self.cache.release(item.content_hash, scheduled.sequence_id)
        return found

    def forget(self, state: SequenceState) -> None:
        """A sequence has ended, perhaps in the middle of an item."""
        self._visual_ends.pop(state.sequence_id, None)
        for item in () if state.media is None else state.media.items:
            self.cache.release(item.content_hash, state.sequence_id)


def _positions(state: SequenceState, start: int, stop: int) -> np.ndarray:
    if state.media is None:
        return np.broadcast_to(np.arange(start, stop, dtype=np.int32), (3, stop - start))
    return state.media.positions(start, stop)
