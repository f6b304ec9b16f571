"""What the runner remembers of a sequence between steps: its token ids and how to sample it; knows no scheduling."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..core.outputs import NewSequence
from .constraint import Constraint
from .sequence_media import SequenceMedia


class SequenceState:
    """Owns the sequence's ids: the prompt, and what was sampled since. Preemption leaves it as it is. On a GPU the newest id may be a
    placeholder below 0 until it has come from the device."""

    def __init__(self, new: NewSequence, seed: int, vocab_size: int, media: SequenceMedia | None = None) -> None:
        sampling = new.sampling
        self.sequence_id = new.sequence_id
        self.token_ids = list(new.prompt_token_ids)
        self.num_prompt_tokens = len(self.token_ids)
        self.media = media
        self.sampling = sampling
        self.seed = seed % 2**64
        self.ends = (*sampling.eos_token_ids, *sampling.stop_token_ids)
        """Ids that min_tokens forbids."""
        self.penalised = sampling.repetition_penalty != 1 or sampling.frequency_penalty != 0 or sampling.presence_penalty != 0
        truncated = sampling.top_k > 0 or sampling.top_p < 1 or sampling.min_p > 0
        self.truncates = truncated and not sampling.greedy
        """Whether min_p, top_k or top_p leaves fewer tokens to draw from."""
        self.constraint = None if new.matcher is None else Constraint(new.matcher, sampling, vocab_size)
        waits_for_thought = self.constraint is not None and self.constraint.in_thought
        self.edits_logits = bool(sampling.logit_bias or sampling.bad_words_token_ids or sampling.min_tokens) or waits_for_thought
        self.prompt_array = np.array(new.prompt_token_ids, np.int64) if sampling.repetition_penalty != 1 else None
        self.logit_bias: tuple[np.ndarray, np.ndarray] | None = None  # ids [n] int64, values [n] float32
        if sampling.logit_bias:
            ids, values = zip(*sampling.logit_bias, strict=True)
            self.logit_bias = np.array(ids, np.int64), np.array(values, np.float32)

    @property
    def position_shift(self) -> int:
        """Rotary position of an output token less its place in the sequence: an image takes fewer positions than tokens."""
        return 0 if self.media is None else self.media.shift

    @property
    def num_output_tokens(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens

    def note(self, token_id: int) -> None:
        """A token was chosen, and is known by now."""
        if self.constraint is not None:
            self.constraint.accept(token_id)

    def append(self, token_ids: Sequence[int]) -> None:
        """Ids that nobody chose: the closing of a thought."""
        self.token_ids.extend(token_ids)
        if self.constraint is not None:
            self.constraint.close_thought()

    def allowed_mask(self) -> np.ndarray | None:
        """[ceil(vocab / 32)] int32, a bit for each id that may come next; None: all may."""
        return None if self.constraint is None else self.constraint.mask()

    def output_array(self) -> np.ndarray:
        """Output token ids, [num_output_tokens] int64."""
        return np.array(self.token_ids[self.num_prompt_tokens :], np.int64)

    def forbidden_token_ids(self) -> np.ndarray | None:
        """Ids that must not come next: ends before min_tokens or within a thought that a grammar waits for, and last ids of bad words whose
        other ids the output ends with."""
        waits_for_thought = self.constraint is not None and self.constraint.in_thought
        forbidden = list(self.ends) if waits_for_thought or self.num_output_tokens < self.sampling.min_tokens else []
        for word in self.sampling.bad_words_token_ids:
            *before, last = word
            if len(before) <= self.num_output_tokens and self.token_ids[len(self.token_ids) - len(before) :] == before:
                forbidden.append(last)
        return np.array(forbidden, np.int64) if forbidden else None
