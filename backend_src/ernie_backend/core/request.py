"""The scheduler's view of a request: its sequences (one per choice), their token counts and blocks; ints only."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..protocol import FinishReason, GenerateRequest


@dataclass(eq=False)
class Sequence:
    """One choice of a request. `num_computed_tokens` catches up with `num_tokens`; that is all the scheduler knows of progress."""

    sequence_id: int
    group: RequestGroup
    index: int
    """The choice, from 0."""
    max_num_tokens: int
    """Prompt and output together: by then it has ended, by `max_tokens`, by the context or by what may follow the thought."""
    waits_at: int = field(init=False)
    """With so many known tokens, a pending one must be told before the next step: it is the last one, or spends the thought's budget."""
    num_tokens: int = field(init=False)
    """Known tokens: prompt and output, pending ones included."""
    output_token_ids: list[int] = field(default_factory=list)
    num_computed_tokens: int = 0
    """Those that are in the cache, or will be once the steps scheduled so far have run."""
    num_pending_tokens: int = 0
    """Output tokens that a scheduled step will choose, or has chosen and not yet told: they count as known, but their ids are not here."""
    block_ids: tuple[int, ...] = ()
    """Replaced, never changed: what was scheduled with it stays true, and who knows the object knows the table."""
    num_slots: int = 0
    """Tokens that find room in `block_ids`."""
    block_hashes: list[bytes] = field(default_factory=list)
    """Chained hashes of the full blocks known so far; grows, never shrinks (tokens are only appended)."""
    num_remembered_blocks: int = 0
    """How many of `block_ids`, from the front, the prefix cache knows of."""
    watches_thought: bool = False
    """The answer is in a thought that has a budget, or behind which a bound begins."""
    finish_reason: FinishReason | None = None

    def __post_init__(self) -> None:
        self.num_tokens = self.num_prompt_tokens
        self.waits_at = self.max_num_tokens
        sampling = self.group.request.sampling
        self.watches_thought = sampling.reasoning_max_tokens is not None or sampling.response_max_tokens is not None
        if sampling.reasoning_max_tokens is not None:
            self.waits_at = min(self.num_tokens + sampling.reasoning_max_tokens, self.max_num_tokens)

    @property
    def prompt_token_ids(self) -> tuple[int, ...]:
        return self.group.request.prompt_token_ids

    @property
    def num_prompt_tokens(self) -> int:
        return len(self.group.request.prompt_token_ids)

    @property
    def has_computed_prompt(self) -> bool:
        return self.num_computed_tokens >= self.num_prompt_tokens

    def token_slice(self, start: int, end: int) -> list[int]:
        """Known token ids [start, end)."""
        prompt = self.prompt_token_ids
        if end <= len(prompt):
            return list(prompt[start:end])
        return list(prompt[start:]) + self.output_token_ids[max(0, start - len(prompt)) : end - len(prompt)]


@dataclass(eq=False)
class RequestGroup:
    """A request and its sequences. Choices > 0 share the blocks of the prompt that choice 0 has computed."""

    request: GenerateRequest
    sequences: list[Sequence] = field(default_factory=list)
    num_cached_tokens: int = 0
    """Prompt tokens that the prefix cache held when the first sequence was admitted."""
    announced: bool = False
    """Whether the first sequence was admitted, so that `num_cached_tokens` is settled."""
    end_token_ids: frozenset[int] = field(init=False)
    """Those that end an answer which has `min_tokens`."""
    needs_every_token: bool = field(init=False)
    """Whether the ids of all tokens decide what may come next, so that none can be scheduled while one is pending."""

    def __post_init__(self) -> None:
        sampling = self.request.sampling
        self.end_token_ids = frozenset(sampling.eos_token_ids + sampling.stop_token_ids)
        self.needs_every_token = bool(sampling.bad_words_token_ids) or sampling.grammar is not None

    @property
    def leader(self) -> Sequence:
        return self.sequences[0]

    @property
    def is_finished(self) -> bool:
        return all(sequence.finish_reason is not None for sequence in self.sequences)
