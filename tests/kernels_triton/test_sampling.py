"""The sampling kernels, interpreted, against the reference: every mixture of parameters, ties, failures, counts, log-probabilities."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from ernie_kernels.reference import sampling as reference
from tests.kernels_triton import sampling_rows as rows_of

VOCAB = 13_000  # four chunks, the last not full; more than the list of candidates holds
TOLERANCE = 2e-6


@pytest.mark.parametrize("seed", range(3))
def test_random_rows(seed: int) -> None:
    logits, rows = rows_of.random_rows(np.random.default_rng(seed), 8, VOCAB)
    assert rows_of.disagreements(logits, rows, rows_of.sample(logits, rows), TOLERANCE) == []


@pytest.mark.parametrize(
    "parameters",
    [
        {"top_p": 0.8},  # more survivors than the list holds, the threshold between two edges of the second narrowing
        {"top_p": 0.8, "min_p": 0.2},
        {"top_k": 9_500},
        {"top_k": 9_500, "top_p": 0.97},  # the whole row is searched
        {"top_k": 20_000},
        {"min_p": 0.1},
    ],
    ids=str,
)
def test_flat_rows(parameters: dict[str, float]) -> None:
    logits = np.random.default_rng(7).standard_normal((3, VOCAB), np.float32)
    rows = rows_of.inputs(3, **parameters)
    assert rows_of.disagreements(logits, rows, rows_of.sample(logits, rows), TOLERANCE) == []


def test_lower_ids_win_ties() -> None:
    logits = np.full((6, VOCAB), -1.5, np.float32)
    logits[3:, 5_000:5_010] = 2
    rows = rows_of.inputs(6, top_k=[7, 0, 9_000, 3, 12, 0], top_p=[1, 0.01, 0.5, 0.5, 1, 0.35], temperature=[1, 1, 1, 1, 0.5, 0.1])
    token_ids = rows_of.sample(logits, rows)
    assert rows_of.disagreements(logits, rows, token_ids, TOLERANCE) == []
    assert token_ids[0] < 7
    assert token_ids[1] < 131
    assert token_ids[2] < 4_501
    assert 5_000 <= token_ids[3] < 5_002
    assert 5_000 <= token_ids[5] < 5_004


def test_rows_that_cannot_be_sampled_fail_alone() -> None:
    logits = np.zeros((4, VOCAB), np.float32)
    logits[0, 12_999] = np.nan
    logits[1] = -np.inf
    logits[2, 77] = np.inf
    for parameters in ({}, {"temperature": 0.0}, {"top_p": 0.5}):
        assert rows_of.sample(logits, rows_of.inputs(4, **parameters))[:3].tolist() == [-1, -1, -1]
    assert rows_of.sample(logits, rows_of.inputs(4, temperature=0.0))[3] == 0


def test_without_truncation_kernels() -> None:
    logits = np.random.default_rng(1).standard_normal((4, VOCAB), np.float32) * 4
    rows = rows_of.inputs(4, temperature=[0, 0.6, 1, 1], top_k=[0, 0, 1, 0], top_p=[1, 1, 1, 0])
    token_ids = rows_of.sample(logits, rows, truncated=False)
    assert rows_of.disagreements(logits, rows, token_ids, TOLERANCE) == []
    assert token_ids.tolist() == rows_of.sample(logits, rows).tolist()


def test_penalties_bias_and_forbidden_ids() -> None:
    rng = np.random.default_rng(2)
    logits = rng.standard_normal((5, VOCAB), np.float32) * 2
    likely = np.argsort(-logits, axis=1)
    rows = rows_of.inputs(
        5,
        temperature=[0, 0, 1, 0.7, 0],
        top_k=[0, 0, 40, 0, 0],
        repetition_penalty=[1.8, 1, 1.3, 1, 1],
        frequency_penalty=[0, 0.5, 0.2, -0.4, 0],
        presence_penalty=[0, 0.3, -1, 0, 0],
        prompt_token_ids=(likely[0, :4], likely[1, :9], likely[2, 3:30], None, None),
        output_token_ids=(likely[0, 3:8], np.repeat(likely[1, :3], 2), np.tile(likely[2, :9], 5), likely[3, :400], None),
        logit_bias=(None, (likely[1, :2], np.array([-50.0, -50.0])), None, (likely[3, :300], np.linspace(-9, 9, 300)), None),
        forbidden_token_ids=(None, likely[1, 1:4], None, None, likely[4, [0, 0, 1]]),
    )
    counts = rows_of.count_tokens(rows, VOCAB)
    before = counts.copy()
    token_ids = rows_of.sample(logits, rows, slots=np.array([0, 1, 2, 3, -1]), counts=counts)
    assert rows_of.disagreements(logits, rows, token_ids, TOLERANCE) == []
    assert token_ids[0] != likely[0, 0]
    assert token_ids[4] == likely[4, 2]
    expected = before.copy()
    expected[np.arange(4), token_ids[:4]] += 2
    np.testing.assert_array_equal(counts, expected)
    for row in range(4):
        prompt, output = rows.prompt_token_ids[row], rows.output_token_ids[row]
        seen = np.zeros(VOCAB, np.int32) if prompt is None else np.isin(np.arange(VOCAB), prompt).astype(np.int32)
        np.testing.assert_array_equal(before[row], 2 * np.bincount(output, minlength=VOCAB) + seen)


def test_masks() -> None:
    """One id, two far apart, the ends of words and of the row, nothing; with penalties and bias on what is not allowed."""
    rng = np.random.default_rng(5)
    logits = rng.standard_normal((8, VOCAB), np.float32) * 3
    likely = np.argsort(-logits, axis=1)
    allowed = np.zeros((8, VOCAB), bool)
    for row, ids in enumerate([[77], [31, VOCAB - 1], [0, 32, 63, 4_096], [], [*likely[4, 5:60]], [*range(64, 128)], [9, 11], [VOCAB - 2]]):
        allowed[row, ids] = True
    rows = rows_of.inputs(
        8,
        temperature=[1, 0.7, 1, 1, 1.5, 0, 1, 1],
        top_k=[20, 0, 3, 0, 20, 0, 50, 0],
        top_p=[0.8, 0.9, 1, 1, 0.5, 1, 0.9, 1],
        min_p=[0.1, 0, 0, 0, 0.05, 0, 0, 0],
        repetition_penalty=[1, 1, 1, 1, 1, 1.5, 1, 1],
        prompt_token_ids=(None,) * 5 + (likely[5, :9], None, None),
        logit_bias=(None,) * 6 + ((likely[6, :3], np.full(3, 100.0)), None),
        allowed_masks=(*map(rows_of.mask_of, allowed[:7]), None),
    )
    counts = rows_of.count_tokens(rows, VOCAB)
    token_ids = rows_of.sample(logits, rows, slots=np.array([-1] * 5 + [5, -1, -1]), counts=counts)
    assert rows_of.disagreements(logits, rows, token_ids, TOLERANCE) == []
    assert token_ids[0] == 77 and token_ids[3] == -1
    assert all(allowed[row, token_ids[row]] for row in (0, 1, 2, 4, 5, 6))


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    logits, rows = rows_of.random_rows(np.random.default_rng(11), 6, VOCAB)
    together = rows_of.sample(logits, rows)
    for row in (0, 3, 5):
        alone = {name: getattr(rows, name)[row : row + 1] for name in rows.__dataclass_fields__}
        assert rows_of.sample(logits[row : row + 1], reference.SamplingInputs(**alone))[0] == together[row]


def test_paddle_tensors() -> None:
    logits, rows = rows_of.random_rows(np.random.default_rng(3), 4, 5_000)
    token_ids = rows_of.sample(logits, rows, paddle.to_tensor, lambda x: x.numpy())
    assert token_ids.tolist() == rows_of.sample(logits, rows).tolist()


def test_logprobs() -> None:
    logits = np.random.default_rng(4).standard_normal((4, VOCAB), np.float32) * 3
    logits[1] = np.round(logits[1])
    rows = rows_of.inputs(4, num_logprobs=(0, 20, None, 5))
    token_ids = np.array([5, 12_999, 0, -1], np.int32)
    values, ids = rows_of.top_logprobs(logits, rows, token_ids)
    for row, count in ((0, 0), (1, 20), (3, 5)):
        chosen, expected_ids, expected = reference.top_logprobs(logits[row], max(int(token_ids[row]), 0), count)
        assert ids[row, :count].tolist() == list(expected_ids)
        np.testing.assert_allclose(values[row, 1 : 1 + count], expected, rtol=1e-5, atol=1e-5)
        if token_ids[row] >= 0:
            np.testing.assert_allclose(values[row, 0], chosen, rtol=1e-5, atol=1e-5)
    assert np.isnan(values[2]).all()
    assert (ids[2] == -7).all()
