"""A runner without a model whose 'cache' remembers what was written, so that a wrong block or slot is noticed at once.

Slot content is a running hash of the sequence up to that token; the next token is a function of the last slot. A sequence that reads
another's blocks, or blocks that were reused too early, fails the assertion instead of silently giving other tokens.
"""

from __future__ import annotations

import zlib

from ernie_backend.core.outputs import ModelRunnerOutput, NewSequence, SchedulerOutput
from ernie_backend.protocol import TokenLogprobs

VOCAB_SIZE = 997


def chain(previous: int, token_id: int) -> int:
    return zlib.crc32(token_id.to_bytes(4, "little"), previous)


def expected_tokens(prompt: tuple[int, ...], count: int, seed: int = 0) -> list[int]:
    """What a lone sequence generates."""
    state = 0
    for token in prompt:
        state = chain(state, token)
    tokens = []
    for _ in range(count):
        tokens.append((state ^ seed) % VOCAB_SIZE)
        state = chain(state, tokens[-1])
    return tokens


class FakeRunner:
    """Executes steps on integers; `steps` counts them, `fail_next` makes the next one raise, and with `is_lost` it does not recover."""

    def __init__(self, num_blocks: int, block_size: int, steps_ahead: int = 0) -> None:
        self.steps_ahead = steps_ahead
        self.block_size = block_size
        self.cache: list[list[int | None]] = [[None] * block_size for _ in range(num_blocks)]
        self.known: dict[int, tuple[NewSequence, list[int]]] = {}
        self.steps = 0
        self.computed_tokens = 0
        self.outputs: list[SchedulerOutput] = []
        self.fail_next = False
        self.is_lost = False
        self.fail_sampling_of: set[int] = set()
        self.why_sampling_fails = "scripted"
        self.broken_promise: AssertionError | None = None
        """What the scheduler did wrong; the engine core would take it for a failed step, so drivers look here."""

    def launch(self, output: SchedulerOutput) -> ModelRunnerOutput:
        return self.execute(output)

    def collect(self, launched: ModelRunnerOutput) -> ModelRunnerOutput:
        return launched

    def recover(self) -> None:
        if self.is_lost:
            raise RuntimeError("scripted loss of the device")

    def execute(self, output: SchedulerOutput) -> ModelRunnerOutput:
        try:
            return self._execute(output)
        except AssertionError as error:
            self.broken_promise = error
            raise

    def _execute(self, output: SchedulerOutput) -> ModelRunnerOutput:
        self.steps += 1
        self.outputs.append(output)
        for sequence_id in output.finished_sequence_ids:
            del self.known[sequence_id]
        for new in output.new_sequences:
            assert new.sequence_id not in self.known
            self.known[new.sequence_id] = (new, list(new.prompt_token_ids))
        for sequence_id, token_ids in output.appended_token_ids.items():
            self.known[sequence_id][1].extend(token_ids)
        if self.fail_next:
            self.fail_next = False
            raise RuntimeError("scripted failure")
        result = ModelRunnerOutput({}, {})
        for granted in output.scheduled:
            new, ids = self.known[granted.sequence_id]
            end = granted.num_computed_tokens + granted.num_scheduled_tokens
            assert granted.num_scheduled_tokens > 0 and end <= len(ids)
            self.computed_tokens += granted.num_scheduled_tokens
            state = 0
            spoiled = granted.sequence_id in self.fail_sampling_of  # as NaN does: what it writes is of no use to anybody
            for position in range(end):
                state = chain(state, ids[position])
                block = self.cache[granted.block_ids[position // self.block_size]]
                if position < granted.num_computed_tokens:
                    assert spoiled or block[position % self.block_size] == state, "the cache does not hold this sequence's past"
                else:
                    block[position % self.block_size] = None if spoiled else state
            if granted.samples:
                assert end == len(ids)
                if granted.sequence_id in self.fail_sampling_of:
                    result.failed[granted.sequence_id] = self.why_sampling_fails
                    continue
                token = (state ^ (new.seed or 0)) % VOCAB_SIZE
                ids.append(token)
                result.sampled[granted.sequence_id] = token
                if new.sampling.logprobs is not None:
                    result.logprobs[granted.sequence_id] = TokenLogprobs(-1.0)
        return result
