"""Sampling against plain float64 models, transformers' processors and the laws of chance; seeds are fixed."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ernie_kernels import ops, xp
from ernie_kernels.reference import sampling

OFF = {
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
    "seed": 0,
    "position": 0,
    "prompt_token_ids": None,
    "output_token_ids": None,
    "logit_bias": None,
    "forbidden_token_ids": None,
    "allowed_masks": None,
    "num_logprobs": None,
}
ARRAYS = {"seed": np.uint64, "position": np.int64, "top_k": np.int64}


def rows(*given: dict) -> ops.SamplingInputs:
    """Inputs of one row for each dict; what a dict does not name is off."""
    table = [{**OFF, **row} for row in given]
    assert set(OFF) == {field.name for field in dataclasses.fields(ops.SamplingInputs)}
    return ops.SamplingInputs(
        **{
            name: np.array([row[name] for row in table], ARRAYS.get(name, np.float64))
            if isinstance(OFF[name], (int, float))
            else tuple(row[name] for row in table)
            for name in OFF
        }
    )


def sample(logits: np.ndarray, *given: dict) -> ops.SamplingResult:
    return ops.sample(xp.from_numpy(np.asarray(logits, np.float32)), rows(*given))


def plain_set(logits: np.ndarray, top_k: int, top_p: float, min_p: float) -> set[int]:
    """The surviving ids, one step after the other, in float64 and without any shortcut."""
    p = np.exp(logits.astype(np.float64) - logits.max())
    alive = [int(i) for i in sorted(range(len(p)), key=lambda i: (-p[i], i)) if p[i] >= min_p]
    if top_k:
        alive = alive[:top_k]
    total, mass, kept = sum(p[i] for i in alive), 0.0, []
    for i in alive:
        kept.append(i)
        mass += p[i]
        if top_p < 1 and mass >= top_p * total:
            break
    return set(kept)


def surviving(logits: np.ndarray, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0) -> set[int]:
    weights = np.exp(sampling.scaled_logits(logits, logits.max(), 1.0))
    kept = sampling.surviving_token_ids(weights, top_k, top_p, min_p)
    if kept is None:
        return set(range(len(logits)))
    assert np.all(np.diff(kept) > 0)
    return set(kept.tolist())


@pytest.mark.parametrize("spread", [0.1, 1.0, 4.0], ids=["flat", "usual", "peaked"])
@pytest.mark.parametrize("vocab", [7, 300, 20000])
@pytest.mark.parametrize(
    "setting", [(0, 0.7, 0.0), (5, 1.0, 0.0), (2000, 0.9, 0.0), (0, 1.0, 0.05), (50, 0.5, 0.01), (0, 0.999, 0.0), (3, 1.0, 0.5)]
)
def test_surviving_sets_are_those_of_the_plain_model(setting, vocab, spread):
    top_k, top_p, min_p = setting
    logits = np.random.default_rng([vocab, int(spread * 10)]).standard_normal(vocab).astype(np.float32) * np.float32(spread)
    assert surviving(logits, top_k, top_p, min_p) == plain_set(logits, top_k, top_p, min_p)


@pytest.mark.parametrize(
    ("warper", "setting"),
    [
        (TopKLogitsWarper(40), {"top_k": 40}),
        (TopPLogitsWarper(0.8), {"top_p": 0.8}),
        (MinPLogitsWarper(0.1), {"min_p": 0.1}),
    ],
    ids=["top_k", "top_p", "min_p"],
)
def test_surviving_sets_are_those_of_transformers(warper, setting):
    for seed in range(5):
        logits = np.random.default_rng(seed).standard_normal(500).astype(np.float32) * 2
        warped = warper(None, torch.from_numpy(logits)[None])[0]
        assert surviving(logits, **setting) == set(torch.isfinite(warped).nonzero()[:, 0].tolist())


def test_lower_ids_stay_of_equal_values_at_a_boundary():
    logits = np.zeros(100, np.float32)
    assert surviving(logits, top_k=3) == {0, 1, 2}
    assert surviving(logits, top_p=0.25) == set(range(25))
    logits[50] = 1
    assert surviving(logits, top_k=3) == {0, 1, 50}


def test_the_most_probable_token_always_survives():
    assert surviving(np.array([0.0, 9.0, 1.0], np.float32), top_k=1, top_p=1e-9, min_p=1.0) == {1}


@pytest.mark.parametrize("setting", [{"temperature": 0.0}, {"top_p": 0.0}, {"top_k": 1}], ids=str)
def test_greedy_takes_the_largest_and_of_equals_the_lowest(setting):
    logits = np.array([[0, 3, 1, 3], [5, 1, 1, 1]], np.float32)
    assert sample(logits, {**setting, "seed": 1}, {**setting, "seed": 2}).token_ids.tolist() == [1, 0]


def test_a_draw_depends_on_its_own_row_alone():
    rng = np.random.default_rng(4)
    logits = rng.standard_normal((6, 1000)).astype(np.float32)
    settings = [{"seed": s, "position": 3 * s, "top_p": 0.9, "temperature": 0.5 + s / 4} for s in range(5)] + [{"temperature": 0.0}]
    together = sample(logits, *settings).token_ids.tolist()
    assert [int(sample(logits[r : r + 1], settings[r]).token_ids[0]) for r in range(6)] == together
    assert sample(logits[::-1].copy(), *settings[::-1]).token_ids.tolist() == together[::-1]


def test_seeds_and_positions_give_different_draws():
    logits = np.zeros((1, 100000), np.float32)
    draws = {int(sample(logits, {"seed": s, "position": p}).token_ids[0]) for s in (0, 1, 2, 2**63 + 5, 2**64 - 1) for p in range(8)}
    assert len(draws) == 40


def test_the_random_number_is_the_same_on_every_machine():
    assert sampling.mix(0x9E3779B97F4A7C15) == 0xE220A8397B1DCDAF  # the published first output of splitmix64 from seed 0
    found = [sampling.uniform(s, p) for s, p in ((0, 0), (0, 1), (1, 0), (2**64 - 1, 12345))]
    assert found == [0.6524484863740322, 0.7012121095215252, 0.36818951565166946, 0.1450707396536649]


@pytest.mark.parametrize("setting", [{}, {"temperature": 0.5}, {"top_k": 4}, {"top_p": 0.8, "temperature": 2.0}], ids=str)
def test_draws_follow_the_distribution(setting):
    """Chi-square of 4,000 draws over the positions of one seed; a fixed seed, so the outcome is certain."""
    logits = np.array([2.0, 0.5, 1.5, -1.0, 1.0, 0.0, 0.7, 1.2], np.float32)
    count = 4000
    result = sample(np.tile(logits, (count, 1)), *({**setting, "seed": 11, "position": n} for n in range(count)))
    scaled = logits / setting.get("temperature", 1.0)
    kept = sorted(plain_set(scaled, setting.get("top_k", 0), setting.get("top_p", 1.0), 0.0))
    p = np.exp(scaled[kept].astype(np.float64))
    expected = count * p / p.sum()
    found = np.bincount(result.token_ids, minlength=8)
    assert found.sum() == found[kept].sum() == count
    # 99.9 % quantile of chi-square with 7 degrees of freedom
    assert ((found[kept] - expected) ** 2 / expected).sum() < 24.3


def test_draw_never_takes_a_token_without_weight():
    weights = np.array([0, 0.25, 0, 0.75, 0], np.float32)
    almost_one = math.nextafter(1.0, 0.0)
    assert [sampling.draw(weights, None, u) for u in (0.0, 0.2499, 0.25, 0.999, almost_one)] == [1, 1, 3, 3, 3]
    assert sampling.draw(weights, np.array([1, 2]), almost_one) == 1


def test_draw_over_many_blocks_inverts_the_cumulated_sum():
    weights = np.random.default_rng(5).random(3000).astype(np.float32)
    cumulated = np.cumsum(weights.astype(np.float64)) / weights.sum(dtype=np.float64)
    for u in np.random.default_rng(6).random(200):
        assert sampling.draw(weights, None, u) == np.searchsorted(cumulated, u, side="right")


def test_a_tiny_temperature_is_greedy_and_a_huge_one_uniform():
    logits = np.array([[0.0, 1.0, 1.0001, -5.0]], np.float32)
    assert all(sample(logits, {"temperature": 1e-30, "position": n}).token_ids[0] == 2 for n in range(20))
    assert {int(sample(logits, {"temperature": 1e30, "position": n}).token_ids[0]) for n in range(60)} == {0, 1, 2, 3}


def adjusted(logits: np.ndarray, **setting) -> np.ndarray:
    return sampling.adjust_logits(logits, rows(setting), 0)


def test_repetition_penalty_is_that_of_transformers():
    logits = np.random.default_rng(7).standard_normal(50).astype(np.float32)
    prompt, output = np.array([3, 4, 4, 9]), np.array([9, 20, 20])
    found = adjusted(logits, repetition_penalty=1.3, prompt_token_ids=prompt, output_token_ids=output)
    ids = torch.from_numpy(np.concatenate([prompt, output]))[None]
    expected = RepetitionPenaltyLogitsProcessor(1.3)(ids, torch.from_numpy(logits)[None])[0].numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_frequency_and_presence_penalties_count_output_tokens_only():
    logits = np.ones(5, np.float32)
    prompt, output = np.array([0, 1]), np.array([1, 3, 3, 3])
    found = adjusted(logits, frequency_penalty=0.25, presence_penalty=1.0, prompt_token_ids=prompt, output_token_ids=output)
    np.testing.assert_array_equal(found, [1, 1 - 1.25, 1, 1 - 1.75, 1])


def test_bias_then_forbidden_and_the_logits_stay_as_they_are():
    logits = np.zeros(4, np.float32)
    found = adjusted(logits, logit_bias=(np.array([1, 2]), np.array([5.0, -3.0])), forbidden_token_ids=np.array([1]))
    np.testing.assert_array_equal(found, [0, -np.inf, -3, 0])
    assert not logits.any()
    assert adjusted(logits) is logits


def test_a_forbidden_token_is_never_chosen():
    logits = np.array([[9.0, 0.0, 8.0]], np.float32)
    assert sample(logits, {"temperature": 0.0, "forbidden_token_ids": np.array([0])}).token_ids[0] == 2
    assert all(sample(logits, {"position": n, "forbidden_token_ids": np.array([0, 2])}).token_ids[0] == 1 for n in range(20))


@pytest.mark.parametrize("spread", [0.1, 5.0], ids=["flat", "peaked"])
def test_logprobs_are_those_of_the_raw_logits(spread):
    logits = np.random.default_rng(8).standard_normal((2, 5000)).astype(np.float32) * np.float32(spread)
    penalised = {"temperature": 0.0, "forbidden_token_ids": np.array([int(logits[0].argmax())]), "num_logprobs": 20}
    result = sample(logits, penalised, {"num_logprobs": 0})
    expected = torch.log_softmax(torch.from_numpy(logits).double(), -1).numpy()
    logprob, ids, top = result.logprobs[0]
    order = np.argsort(-expected[0], kind="stable")[:20]
    assert list(ids) == order.tolist()
    assert result.token_ids[0] == order[1]
    np.testing.assert_allclose(top, expected[0, order], atol=1e-6)
    assert logprob == pytest.approx(expected[0, order[1]], abs=1e-6)
    assert result.logprobs[1] == (pytest.approx(expected[1, result.token_ids[1]], abs=1e-6), (), ())


def test_logprobs_of_equals_name_the_lower_ids_first():
    logprob, ids, top = sample(np.zeros((1, 50), np.float32), {"temperature": 0.0, "num_logprobs": 3}).logprobs[0]
    assert (ids, top) == ((0, 1, 2), (logprob,) * 3)
    assert logprob == pytest.approx(-math.log(50))


def test_more_logprobs_than_tokens_gives_all():
    assert len(sample(np.zeros((1, 4), np.float32), {"num_logprobs": 20}).logprobs[0][1]) == 4


@pytest.mark.parametrize("setting", [{}, {"temperature": 0.0}, {"top_p": 0.5, "num_logprobs": 2}], ids=str)
def test_a_row_that_cannot_be_sampled_fails_alone(setting):
    logits = np.zeros((4, 8), np.float32)
    logits[0, 3] = np.nan
    logits[2, 3] = np.inf
    result = sample(logits, setting, setting, setting, {**setting, "forbidden_token_ids": np.arange(8)})
    assert set(result.failed) == {0, 2, 3}
    assert result.token_ids[[0, 2, 3]].tolist() == [-1, -1, -1]
    assert result.token_ids[1] >= 0
    assert "no token can be chosen" in result.failed[0]
