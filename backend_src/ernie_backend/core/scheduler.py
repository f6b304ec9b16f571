"""Which sequence computes how many tokens in the next step, and when an answer ends; ints only, no tensors, no clock, no threads.

One rule, *computed tokens catch up with known tokens*, covers prefill, chunked prefill, prefix hits, decode and recomputation after a
preemption: there are no phases.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass

from ..config import EngineConfig
from ..errors import EngineError, InvalidRequestError
from ..protocol import FinishReason, GenerateEvent, GenerateRequest, TokenLogprobs
from .kv_cache_manager import KVCacheManager
from .outputs import GRAMMAR_TOO_COMPLEX, ModelRunnerOutput, NewSequence, ScheduledSequence, SchedulerOutput, StepOutput
from .request import RequestGroup, Sequence

log = logging.getLogger(__name__)

STEP_FAILED = EngineError("The engine failed while it computed this answer. Try again; the server's log says more.").to_wire()

TOO_COMPLEX = InvalidRequestError(
    "The answer cannot follow the format that was asked for: it has become too complex on the way. Make the schema, expression or grammar "
    "simpler."
).to_wire()
_CERTAIN = TokenLogprobs(0.0)
"""Of an id that was not sampled."""


@dataclass(frozen=True)
class SchedulerStats:
    """A glance at the scheduler; the totals only grow."""

    num_running: int
    num_waiting: int
    num_blocks_used: int
    num_blocks: int
    prompt_tokens_total: int
    cached_tokens_total: int
    generation_tokens_total: int
    preemptions_total: int
    finished_total: dict[str, int]
    """Sequences by finish reason."""


class Scheduler:
    """Owns waiting and running sequences and, through the cache manager, every block.

    `schedule()` and `update()` alternate; requests are added, aborted and stopped only between the two.
    """

    def __init__(self, config: EngineConfig, num_blocks: int) -> None:
        assert config.max_model_len is not None and config.max_num_batched_tokens is not None
        self.max_model_len = config.max_model_len
        self.max_num_seqs = config.max_num_seqs
        self.max_num_batched_tokens = config.max_num_batched_tokens
        self.chunked_prefill = config.enable_chunked_prefill
        self.kv = KVCacheManager(num_blocks, config.block_size_tokens, prefix_caching=config.enable_prefix_caching)
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self._groups: dict[str, RequestGroup] = {}
        self._by_id: dict[int, Sequence] = {}
        self._next_id = 0
        self._known_to_runner: set[int] = set()
        self._finished_ids: list[int] = []
        self._appended: dict[int, tuple[int, ...]] = {}
        self._booked: list[GenerateEvent] = []
        self._totals = {"prompt": 0, "cached": 0, "generation": 0, "preemptions": 0}
        self._finished_total = dict.fromkeys((reason.value for reason in FinishReason), 0)

    # -- requests come and go ------------------------------------------------------------------------------------------------------

    @property
    def num_sequences(self) -> int:
        """Unfinished ones, running and waiting."""
        return len(self._by_id)

    @property
    def has_work(self) -> bool:
        """Whether a step would do something, be it only telling the runner what to forget."""
        return bool(self._groups or self._finished_ids)

    def add(self, request: GenerateRequest) -> None:
        """Queue a request that preprocess has checked: 1 ≤ prompt, prompt + max_tokens ≤ max_model_len."""
        assert request.key not in self._groups, "keys are minted once"
        assert 0 < len(request.prompt_token_ids) < self.max_model_len
        group = RequestGroup(request)
        max_num_tokens = min(len(request.prompt_token_ids) + request.sampling.max_tokens, self.max_model_len)
        for index in range(request.n):
            sequence = Sequence(self._next_id, group, index, max_num_tokens)
            self._next_id += 1
            group.sequences.append(sequence)
            self._by_id[sequence.sequence_id] = sequence
            self.waiting.append(sequence)
        self._groups[request.key] = group
        self._totals["prompt"] += len(request.prompt_token_ids)

    def finish(self, key: str, reason: FinishReason, *, index: int | None = None, error: str | None = None) -> StepOutput:
        """End a request, or one choice of it, from outside: abort, stop string, shutdown. Unknown keys are no error (it has just ended)."""
        group = self._groups.get(key)
        if group is None:
            return StepOutput(())
        chosen = [s for s in group.sequences if s.finish_reason is None and index in (None, s.index)]
        return StepOutput(tuple(self._end(sequence, reason, error=error) for sequence in chosen))

    def finish_all(self, reason: FinishReason, *, error: str | None = None) -> StepOutput:
        events = [event for key in list(self._groups) for event in self.finish(key, reason, error=error).events]
        return StepOutput(tuple(events))

    def fail_step(self) -> StepOutput:
        """A step raised: every running sequence ends with an error, and no cached content is trusted any more. So does a preempted one
        whose token was lost with the step.

        What `update` had booked before it raised is told, too.
        """
        lost = [sequence for sequence in self.waiting if sequence.num_pending_tokens]
        events = [self._end(sequence, FinishReason.ERROR, error=STEP_FAILED) for sequence in self.running + lost]
        self.kv.pool.forget_all()
        booked, self._booked = self._booked, []
        return StepOutput((*booked, *events))

    # -- one step ------------------------------------------------------------------------------------------------------------------

    def schedule(self) -> SchedulerOutput:
        """The next step. What it grants counts as computed from now on, and the tokens it will choose as known (pending): the step after it
        may be scheduled before its result has come to `update`."""
        budget = self.max_num_batched_tokens
        scheduled: list[ScheduledSequence] = []
        new: list[NewSequence] = []
        preemptions_before = self._totals["preemptions"]
        for sequence in self.running:  # at whose end `_make_room` preempts: never one that was here before
            if self._awaits_token(sequence):
                continue
            count = sequence.num_tokens - sequence.num_computed_tokens
            if count > budget:
                count = budget
            if sequence.num_computed_tokens + count > sequence.num_slots and not self._make_room(sequence, count):
                break  # it preempted itself, and it was the last one
            scheduled.append(self._grant(sequence, count))
            budget -= count
            if budget == 0:
                break
        if self._totals["preemptions"] == preemptions_before:  # else the freed blocks would go to the one that just gave them up
            self._admit(budget, scheduled, new)
        finished, self._finished_ids = tuple(self._finished_ids), []
        appended, self._appended = self._appended, {}
        return SchedulerOutput(tuple(new), tuple(scheduled), finished, appended)

    @staticmethod
    def _awaits_token(sequence: Sequence) -> bool:
        """Whether nothing can be scheduled before a pending token is known: it is the last one, or decides what may come next.

        Such a sequence is computed in every other step while others run a step ahead; they do not wait for it.
        """
        waits = sequence.num_tokens >= sequence.waits_at
        return sequence.num_pending_tokens > 0 and (waits or sequence.group.needs_every_token)

    def _make_room(self, sequence: Sequence, count: int) -> bool:
        """Slots for `count` more tokens, preempting from the back of `running`; False if it had to preempt itself."""
        while not self.kv.grow(sequence, sequence.num_computed_tokens + count):
            victim = self.running.pop()
            self._preempt(victim)
            if victim is sequence:
                return False
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self.kv.release(sequence)
        self._totals["preemptions"] += 1
        self.waiting.appendleft(sequence)

    def _admit(self, budget: int, scheduled: list[ScheduledSequence], new: list[NewSequence]) -> None:
        """Take from the queue, in order, what still fits into the step; a choice whose prompt choice 0 is computing waits for it.

        All known tokens must find room, not only the chunk: else the newcomer's next chunk would preempt it again and again.
        """
        position = 0
        while position < len(self.waiting) and budget > 0 and len(self.running) < self.max_num_seqs:
            sequence = self.waiting[position]
            if self._waits_for_leader(sequence):
                position += 1
                continue
            prefix = self.kv.find_prefix(sequence)
            missing = sequence.num_tokens - len(prefix) * self.kv.block_size
            count = min(missing, budget)
            fits = (self.chunked_prefill or count == missing) and self.kv.has_room(prefix, sequence.num_tokens)
            if not fits:
                break
            self.kv.admit(sequence, prefix, sequence.num_tokens - missing + count)
            del self.waiting[position]
            self._announce(sequence, len(prefix) * self.kv.block_size)
            self.running.append(sequence)
            if sequence.sequence_id not in self._known_to_runner:
                self._known_to_runner.add(sequence.sequence_id)
                new.append(self._introduce(sequence))
            scheduled.append(self._grant(sequence, count))
            budget -= count

    @staticmethod
    def _waits_for_leader(sequence: Sequence) -> bool:
        leader = sequence.group.leader
        if sequence is leader or leader.finish_reason is not None or sequence.output_token_ids:
            return False
        return not leader.output_token_ids and (not leader.has_computed_prompt or leader.num_pending_tokens > 0)

    def _announce(self, sequence: Sequence, num_cached_tokens: int) -> None:
        group = sequence.group
        if not group.announced:
            group.announced = True
            group.num_cached_tokens = num_cached_tokens
            self._totals["cached"] += num_cached_tokens

    @staticmethod
    def _introduce(sequence: Sequence) -> NewSequence:
        request = sequence.group.request
        sampling = request.sampling
        seed = None if sampling.seed is None else (sampling.seed + sequence.index) & (2**63 - 1)
        choice = (request.key, sequence.index)
        return NewSequence(sequence.sequence_id, sequence.prompt_token_ids, sampling, seed, request.media, request.matcher, choice)

    @staticmethod
    def _grant(sequence: Sequence, count: int) -> ScheduledSequence:
        start = sequence.num_computed_tokens
        sequence.num_computed_tokens = stop = start + count
        samples = stop == sequence.num_tokens
        if samples:
            sequence.num_pending_tokens += 1
            sequence.num_tokens += 1
        return ScheduledSequence(sequence.sequence_id, start, count, sequence.block_ids, samples)

    def update(self, output: SchedulerOutput, result: ModelRunnerOutput) -> StepOutput:
        """Book a computed step. Finish reasons are decided here and only here (a stop string comes in through `finish`).

        Steps are booked in the order in which they were scheduled. A sequence that has ended since is passed over: its token is not wanted.
        """
        events, by_id, logprobs_of = self._booked, self._by_id, result.logprobs
        for granted in output.scheduled:
            sequence = by_id.get(granted.sequence_id)
            if sequence is None:
                continue
            if not granted.samples:
                self.kv.remember(sequence)
                continue
            sequence.num_pending_tokens -= 1
            token_id = result.sampled.get(granted.sequence_id)
            if token_id is None:
                why = result.failed.get(granted.sequence_id, "the runner returned no token")
                of_request = {"request_id": sequence.group.request.request_id}
                log.error("sampling failed for %s[%d]: %s", sequence.group.request.key, sequence.index, why, extra=of_request)
                self.kv.forget(sequence)
                error = TOO_COMPLEX if why == GRAMMAR_TOO_COMPLEX else STEP_FAILED
                events.append(self._end(sequence, FinishReason.ERROR, error=error))
                continue
            sequence.output_token_ids.append(token_id)
            self.kv.remember(sequence)
            self._totals["generation"] += 1
            reason = self._finish_reason(sequence, token_id)
            logprobs = (logprobs_of[granted.sequence_id],) if logprobs_of and granted.sequence_id in logprobs_of else ()
            if reason is None and sequence.watches_thought:
                events.append(self._watch_thought(sequence, token_id, logprobs))
            elif reason is None:
                group = sequence.group
                events.append(GenerateEvent(group.request.key, sequence.index, (token_id,), logprobs, None, group.num_cached_tokens))
            else:
                events.append(self._end(sequence, reason, token_ids=(token_id,), logprobs=logprobs))
        self._booked = []
        return StepOutput(tuple(events))

    def _watch_thought(self, sequence: Sequence, token_id: int, logprobs: tuple[TokenLogprobs, ...]) -> GenerateEvent:
        """The token of a thought with a budget, or before an answer with a bound. When the budget is spent, the closing ids become known as
        a prompt is, if there is room; behind the thought the bound begins."""
        sampling = sequence.group.request.sampling
        closing: tuple[int, ...] = ()
        if token_id != sampling.thought_end_id:
            if len(sequence.output_token_ids) != sampling.reasoning_max_tokens:
                return self._event(sequence, (token_id,), logprobs)
            closing = sampling.thought_closing_ids[: sequence.max_num_tokens - sequence.num_tokens]
            sequence.output_token_ids.extend(closing)
            sequence.num_tokens += len(closing)
            self._appended[sequence.sequence_id] = closing
            self._totals["generation"] += len(closing)
        sequence.watches_thought = False
        if sampling.response_max_tokens is not None:  # at least 1, and no more is pending
            told = sequence.num_tokens - sequence.num_pending_tokens
            sequence.max_num_tokens = min(sequence.max_num_tokens, told + sampling.response_max_tokens)
        sequence.waits_at = sequence.max_num_tokens
        ids, all_logprobs = (token_id, *closing), logprobs and logprobs + (_CERTAIN,) * len(closing)
        if closing and sequence.num_tokens >= sequence.max_num_tokens:
            return self._end(sequence, FinishReason.LENGTH, token_ids=ids, logprobs=all_logprobs)
        return self._event(sequence, ids, all_logprobs)

    @staticmethod
    def _finish_reason(sequence: Sequence, token_id: int) -> FinishReason | None:
        """By cause: an end token on the last allowed position is a `STOP`."""
        group = sequence.group
        if token_id in group.end_token_ids and len(sequence.output_token_ids) >= group.request.sampling.min_tokens:
            return FinishReason.STOP
        if sequence.num_tokens - sequence.num_pending_tokens >= sequence.max_num_tokens:
            return FinishReason.LENGTH
        return None

    def _end(
        self,
        sequence: Sequence,
        reason: FinishReason,
        *,
        token_ids: tuple[int, ...] = (),
        logprobs: tuple[TokenLogprobs, ...] = (),
        error: str | None = None,
    ) -> GenerateEvent:
        sequence.finish_reason = reason
        self.kv.release(sequence)
        if sequence in self.running:
            self.running.remove(sequence)
        else:
            self.waiting.remove(sequence)
        if sequence.sequence_id in self._known_to_runner:
            self._known_to_runner.remove(sequence.sequence_id)
            self._finished_ids.append(sequence.sequence_id)
        self._appended.pop(sequence.sequence_id, None)
        del self._by_id[sequence.sequence_id]
        if sequence.group.is_finished:
            del self._groups[sequence.group.request.key]
        self._finished_total[reason.value] += 1
        return self._event(sequence, token_ids, logprobs, reason, error)

    @staticmethod
    def _event(
        sequence: Sequence,
        token_ids: tuple[int, ...],
        logprobs: tuple[TokenLogprobs, ...],
        reason: FinishReason | None = None,
        error: str | None = None,
    ) -> GenerateEvent:
        group = sequence.group
        return GenerateEvent(group.request.key, sequence.index, token_ids, logprobs, reason, group.num_cached_tokens, error)

    # -- looking in ----------------------------------------------------------------------------------------------------------------

    def stats(self) -> SchedulerStats:
        return SchedulerStats(
            num_running=len(self.running),
            num_waiting=len(self.waiting),
            num_blocks_used=self.kv.pool.num_used,
            num_blocks=self.kv.pool.num_blocks,
            prompt_tokens_total=self._totals["prompt"],
            cached_tokens_total=self._totals["cached"],
            generation_tokens_total=self._totals["generation"],
            preemptions_total=self._totals["preemptions"],
            finished_total=dict(self._finished_total),
        )

    def check_invariants(self) -> None:
        """Every unfinished sequence stands in exactly one queue, only running ones hold blocks, and the pool agrees."""
        unfinished = {s.sequence_id for g in self._groups.values() for s in g.sequences if s.finish_reason is None}
        queued = [s.sequence_id for s in self.waiting] + [s.sequence_id for s in self.running]
        assert len(queued) == len(set(queued)) and set(queued) == unfinished == set(self._by_id)
        assert all(not s.block_ids and s.num_computed_tokens == 0 for s in self.waiting)
        assert all(s.num_computed_tokens < s.num_tokens for s in self.running)
        for s in (*self.waiting, *self.running):
            assert s.num_tokens == s.num_prompt_tokens + len(s.output_token_ids) + s.num_pending_tokens <= s.max_num_tokens
        assert len(self.running) <= self.max_num_seqs
        self.kv.check_invariants(list(self.running))
