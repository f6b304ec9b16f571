"""Grammars over ids: masks, the thought before them, and compiling beside the engine."""

from __future__ import annotations

import queue
from typing import Any

import numpy as np
import pytest

from ernie_backend.core.outputs import GRAMMAR_TOO_COMPLEX, NewSequence
from ernie_backend.errors import ErnieError
from ernie_backend.execution.constraint import (
    COMPILED_GRAMMARS,
    Constraint,
    GrammarCompiler,
    GrammarTooComplexError,
    Vocabulary,
    mask_words,
)
from ernie_backend.execution.sampler import sample
from ernie_backend.execution.sequence_state import SequenceState
from ernie_backend.protocol import SamplingParams
from ernie_kernels import xp

END, END_OF_THOUGHT, VOCAB = 300, 301, 310


@pytest.fixture(scope="module")
def compiler() -> Any:
    token_bytes = [bytes([i]) if i < 256 else f"<{i}>".encode() for i in range(305)]
    made = GrammarCompiler(Vocabulary(token_bytes, frozenset(range(256, 305)), [END], VOCAB, lambda text: list(text.encode())))
    yield made
    made.close()


def compiled(compiler: GrammarCompiler, grammar: str) -> Any:
    """The matcher, or the error."""
    answers: queue.Queue[Any] = queue.Queue()
    compiler.compile(grammar, answers.put, answers.put, lambda: True)
    return answers.get(timeout=30)


def sampling(**fields: Any) -> SamplingParams:
    return SamplingParams(**{"max_tokens": 9, "grammar": "g", "eos_token_ids": (END,), **fields})


def allowed(constraint: Constraint) -> list[int] | None:
    mask = constraint.mask()
    if mask is None:
        return None
    assert mask.shape == (mask_words(VOCAB),) and mask.dtype == np.int32
    return np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little")).tolist()


def test_masks_follow_the_tokens(compiler: GrammarCompiler) -> None:
    constraint = Constraint(compiled(compiler, 'start: /[ab]/ "x"?'), sampling(), VOCAB)
    assert allowed(constraint) == [97, 98]
    constraint.accept(98)
    assert allowed(constraint) == [120, END]
    constraint.accept(120)
    assert allowed(constraint) == [END], "nothing is left but the end"
    constraint.accept(END)
    assert allowed(constraint) == [END]


def test_sequences_share_nothing_but_the_grammar(compiler: GrammarCompiler) -> None:
    matcher = compiled(compiler, 'start: "ab"')
    one, two = (Constraint(matcher, sampling(), VOCAB) for _ in range(2))
    one.accept(97)
    assert (allowed(one), allowed(two)) == ([98], [97])
    assert allowed(Constraint(compiled(compiler, 'start: "ab"'), sampling(), VOCAB)) == [97]


def test_it_begins_behind_the_thought(compiler: GrammarCompiler) -> None:
    matcher = compiled(compiler, 'start: "a"')
    constraint = Constraint(matcher, sampling(thought_end_id=END_OF_THOUGHT), VOCAB)
    for token in (5, 98, 12):
        assert allowed(constraint) is None
        constraint.accept(token)
    constraint.accept(END_OF_THOUGHT)
    assert allowed(constraint) == [97]
    closed = Constraint(matcher, sampling(thought_end_id=END_OF_THOUGHT), VOCAB)
    closed.close_thought()
    assert allowed(closed) == [97]


def test_a_token_against_the_grammar_is_noticed(compiler: GrammarCompiler) -> None:
    constraint = Constraint(compiled(compiler, 'start: "ab"'), sampling(), VOCAB)
    constraint.accept(98)
    with pytest.raises(GrammarTooComplexError, match="satisfy the grammar"):
        constraint.mask()


def test_a_grammar_that_becomes_too_complex_ends_one_sequence(compiler: GrammarCompiler) -> None:
    """Its lexer grows without bound; the limits of a step see to it."""
    hard = compiled(compiler, "start: /(((.*a.{30}){1,9}b)|(.*c.{20}))*/")
    new = [NewSequence(i, (1,), sampling(temperature=0.0, grammar=None if i else "g"), None, matcher=None if i else hard) for i in range(2)]
    states = [SequenceState(entry, 0, VOCAB) for entry in new]
    rng = np.random.default_rng(0)
    for _ in range(300):
        letter = int(rng.choice([97, 98, 99, 120]))
        logits = np.zeros((2, VOCAB), np.float32)
        logits[:, letter] = 1
        result = sample(xp.from_numpy(logits), states)
        assert result.sampled[1] == letter
        if result.failed:
            break
    assert result.failed == {0: GRAMMAR_TOO_COMPLEX}


def test_the_answer_cannot_end_within_its_thought(compiler: GrammarCompiler) -> None:
    matcher = compiled(compiler, 'start: "a"')
    params = sampling(temperature=0.0, thought_end_id=END_OF_THOUGHT, thought_closing_ids=(10, END_OF_THOUGHT))
    state = SequenceState(NewSequence(0, (1,), params, None, matcher=matcher), 0, VOCAB)
    logits = np.zeros((1, VOCAB), np.float32)
    logits[0, END], logits[0, 77] = 5, 3
    assert sample(xp.from_numpy(logits), [state]).sampled[0] == 77
    state.append(params.thought_closing_ids)
    assert sample(xp.from_numpy(logits), [state]).sampled[0] == 97
    assert sample(xp.from_numpy(logits), [state]).sampled[0] == END
    assert state.token_ids == [1, 77, 10, END_OF_THOUGHT, 97, END]


def test_what_does_not_compile_is_refused(compiler: GrammarCompiler) -> None:
    error = compiled(compiler, "start: <nowhere>")
    assert isinstance(error, ErnieError) and error.http_status == 400
    assert "nowhere" not in error.message, "it is not the user's words that failed here"


def test_the_last_ones_are_kept(compiler: GrammarCompiler) -> None:
    first = compiled(compiler, 'start: "first"')
    assert compiled(compiler, 'start: "first"') is first
    for i in range(COMPILED_GRAMMARS):
        compiled(compiler, f'start: "{i}"')
    assert compiled(compiler, 'start: "first"') is not first
