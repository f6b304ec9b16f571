"""What the sampling state of a sequence turns into, and what the ops make of it."""

from __future__ import annotations

import numpy as np
import pytest

from ernie_backend.core.outputs import NewSequence
from ernie_backend.execution.sampler import sample, sampling_inputs
from ernie_backend.execution.sequence_state import SequenceState
from ernie_backend.protocol import SamplingParams
from ernie_kernels import xp

VOCAB = 50


def state(
    sequence_id: int = 0, prompt: tuple[int, ...] = (1, 2, 3), output: tuple[int, ...] = (), seed: int = 0, **fields
) -> SequenceState:
    made = SequenceState(NewSequence(sequence_id, prompt, SamplingParams(max_tokens=99, **fields), seed), seed, vocab_size=100)
    made.token_ids += output
    return made


def forbidden(made: SequenceState) -> list[int]:
    ids = made.forbidden_token_ids()
    return [] if ids is None else sorted(ids.tolist())


def row(**values: float) -> np.ndarray:
    """Logits [1, VOCAB]: zero but for `t7=…`."""
    logits = np.zeros((1, VOCAB), np.float32)
    for name, value in values.items():
        logits[0, int(name[1:])] = value
    return logits


def greedy_token(logits: np.ndarray, made: SequenceState) -> int:
    return sample(xp.from_numpy(logits), [made]).sampled[made.sequence_id]


def test_ends_are_forbidden_until_min_tokens():
    fields = {"min_tokens": 2, "eos_token_ids": (5,), "stop_token_ids": (6, 7)}
    assert forbidden(state(**fields)) == forbidden(state(output=(9,), **fields)) == [5, 6, 7]
    assert forbidden(state(output=(9, 9), **fields)) == []
    made = state(temperature=0.0, **fields)
    logits = row(t5=3, t6=2, t8=1)
    assert [greedy_token(logits, made) for _ in range(3)] == [8, 8, 5]


@pytest.mark.parametrize(
    ("output", "expected"),
    [((), [4]), ((8,), [4, 9]), ((7, 8), [4, 9, 10]), ((8, 7), [4]), ((7, 8, 9), [4])],
)
def test_bad_words_forbid_their_last_id_after_the_others(output, expected):
    assert forbidden(state(output=output, bad_words_token_ids=((4,), (8, 9), (7, 8, 10)))) == expected


def test_bad_words_do_not_reach_into_the_prompt():
    assert forbidden(state(prompt=(7, 8), bad_words_token_ids=((8, 9),))) == []


def test_penalties_read_prompt_and_output_as_documented():
    logits = row(t1=2.0, t20=1.5, t30=1.2)
    assert greedy_token(logits, state(temperature=0.0)) == 1
    assert greedy_token(logits, state(temperature=0.0, presence_penalty=1.0)) == 1  # 1 is in the prompt only
    assert greedy_token(logits, state(temperature=0.0, repetition_penalty=2.0)) == 20
    made = state(temperature=0.0, frequency_penalty=0.4)
    assert [greedy_token(logits, made) for _ in range(5)] == [1, 1, 20, 1, 30]


def test_logit_bias():
    assert greedy_token(row(t1=2.0), state(temperature=0.0, logit_bias=((1, -5.0), (33, 1.0)))) == 33


def test_neighbours_and_steps_before_do_not_change_a_draw():
    logits = np.random.default_rng(0).normal(size=(3, VOCAB)).astype(np.float32)
    together = [state(i, seed=40 + i, temperature=1.0, output=(i,) * i) for i in range(3)]
    result = sample(xp.from_numpy(logits), together)
    for i in range(3):
        again = state(i, seed=40 + i, temperature=1.0, output=(9,) * i)  # same seed, same position, other ids
        assert sample(xp.from_numpy(logits[i : i + 1]), [again]).sampled[i] == result.sampled[i]
        assert together[i].token_ids[-1] == result.sampled[i]


def test_what_nobody_asked_for_is_not_built():
    made = state(temperature=0.5)
    inputs = sampling_inputs([made, state(1, output=(4, 4), presence_penalty=0.5)])
    assert inputs.prompt_token_ids == (None, None) and inputs.output_token_ids[0] is None
    assert inputs.output_token_ids[1].tolist() == [4, 4]
    assert inputs.position.tolist() == [0, 2]


def test_a_seed_of_any_size_fits():
    assert sampling_inputs([state(seed=-1), state(seed=2**70 + 3)]).seed.tolist() == [2**64 - 1, 3]


def test_rows_that_cannot_be_sampled_fail_alone():
    logits = np.zeros((3, VOCAB), np.float32)
    logits[1] = np.nan
    states = [state(i, temperature=1.0) for i in range(3)]
    result = sample(xp.from_numpy(logits), states)
    assert set(result.sampled) == {0, 2} and set(result.failed) == {1}
    assert states[1].num_output_tokens == 0
