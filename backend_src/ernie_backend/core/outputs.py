"""The objects between scheduler, model runner and delivery: plain values, no behaviour."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..protocol import GenerateEvent, MediaItem, SamplingParams, TokenLogprobs

GRAMMAR_TOO_COMPLEX = "the grammar cannot be followed within its limits"
"""In `ModelRunnerOutput.failed`: the request's own fault."""


@dataclass(frozen=True)
class NewSequence:
    """A sequence the runner meets for the first time; it keeps the ids and appends what it samples."""

    sequence_id: int
    prompt_token_ids: tuple[int, ...]
    sampling: SamplingParams
    seed: int | None
    """The choice's own seed (request seed + index), or None for a draw that need not repeat."""
    media: tuple[MediaItem, ...] = ()
    """Images and videos of the prompt, in the order of their places."""
    matcher: Any = None
    """The compiled grammar of `sampling.grammar`; the core passes it on and knows nothing of it."""
    choice: tuple[str, int] = ("", 0)
    """Its request's key and its number there: how the outside calls it. Nothing to the runner."""


class ScheduledSequence(NamedTuple):
    """What one sequence does in this step: known tokens [num_computed, num_computed + num_scheduled) enter the cache.

    A named tuple: a step makes one for each sequence, and a frozen dataclass costs three times as much to make."""

    sequence_id: int
    num_computed_tokens: int
    num_scheduled_tokens: int
    block_ids: tuple[int, ...]
    """The sequence's block table; covers at least num_computed_tokens + num_scheduled_tokens slots. One object while it does not change."""
    samples: bool
    """True iff computed tokens catch up with known tokens in this step, so that its last logits choose a new token."""


@dataclass(frozen=True)
class SchedulerOutput:
    """One step. Sequences stand in scheduling order."""

    new_sequences: tuple[NewSequence, ...]
    scheduled: tuple[ScheduledSequence, ...]
    finished_sequence_ids: tuple[int, ...]
    """Ended since the last step: the runner forgets them. A preempted sequence is not finished; the runner keeps its ids."""
    appended_token_ids: dict[int, tuple[int, ...]] = field(default_factory=dict)
    """sequence_id → output ids that were not sampled, to be added to its known ones before this step: the closing of its thought."""


@dataclass(frozen=True)
class ModelRunnerOutput:
    """By sequence_id: the new token of every scheduled sequence with `samples`, or why it has none."""

    sampled: dict[int, int]
    """→ token id."""
    failed: dict[int, str]
    """→ text for the log: sampling raised. The step's other sequences are not touched."""
    logprobs: dict[int, TokenLogprobs] = field(default_factory=dict)
    """Of the sampled tokens whose requests asked for them."""


@dataclass(frozen=True)
class StepOutput:
    """What one step has to tell the outside."""

    events: tuple[GenerateEvent, ...]
    started: tuple[tuple[str, int], ...] = ()
    """(key, index) of those that were scheduled for the first time."""
    batch_size: int = 0
    """Sequences in the step that was scheduled."""
