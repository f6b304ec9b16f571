"""The objects between scheduler, model runner and delivery: plain values, no behaviour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..protocol import GenerateEvent, SamplingParams, TokenLogprobs

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
    matcher: Any = None
    """The compiled grammar of `sampling.grammar`; the core passes it on and knows nothing of it."""


@dataclass(frozen=True)
class ScheduledSequence:
    """What one sequence does in this step: known tokens [num_computed, num_computed + num_scheduled) enter the cache."""

    sequence_id: int
    num_computed_tokens: int
    num_scheduled_tokens: int
    block_ids: tuple[int, ...]
    """The sequence's block table; covers at least num_computed_tokens + num_scheduled_tokens slots."""
    samples: bool
    """True iff computed tokens catch up with known tokens in this step, so that its last logits choose a new token."""
    appended_token_ids: tuple[int, ...] = ()
    """Output ids that were not sampled, to be added to the sequence's known ones before this step: the closing of its thought."""


@dataclass(frozen=True)
class SchedulerOutput:
    """One step. Sequences stand in scheduling order."""

    new_sequences: tuple[NewSequence, ...]
    scheduled: tuple[ScheduledSequence, ...]
    finished_sequence_ids: tuple[int, ...]
    """Ended since the last step: the runner forgets them. A preempted sequence is not finished; the runner keeps its ids."""


@dataclass(frozen=True)
class SampledToken:
    token_id: int
    logprobs: TokenLogprobs | None = None


@dataclass(frozen=True)
class ModelRunnerOutput:
    """The new token of every scheduled sequence with `samples`; `failed` tells of sequences whose sampling raised."""

    sampled: dict[int, SampledToken]
    failed: dict[int, str]
    """sequence_id → text for the log. The step's other sequences are not touched."""


@dataclass(frozen=True)
class StepOutput:
    """What one step has to tell the outside."""

    events: tuple[GenerateEvent, ...]
