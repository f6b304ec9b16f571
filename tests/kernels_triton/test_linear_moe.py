"""Linears, router, plan, experts and combine, interpreted at small sizes, against numpy in float64."""

from __future__ import annotations

import numpy as np
import pytest

from ernie_kernels.interpreter import Bfloat16, bfloat16_to_float32, float32_to_bfloat16
from ernie_kernels.triton import combine, linear, moe_experts, moe_norm_router, moe_prefill, moe_router, norm_linear

BFLOAT16_ERROR = 3e-3  # relative to the norm; rounding one result to bfloat16 costs 1.7e-3
NORM_MIN, EPS = 1e-12, 1e-5
RNG = np.random.default_rng(0)


def _random(*shape: int, scale: float = 1.0) -> Bfloat16:
    return Bfloat16(float32_to_bfloat16((RNG.standard_normal(shape) * scale).astype(np.float32)))


def _poison(*shape: int) -> Bfloat16:
    return Bfloat16(np.full(shape, 0x7FC0, np.uint16))


def _values(tensor: Bfloat16 | np.ndarray) -> np.ndarray:
    return (bfloat16_to_float32(tensor.bits) if isinstance(tensor, Bfloat16) else tensor).astype(np.float64)


def _error(out: Bfloat16 | np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(_values(out) - expected) / np.linalg.norm(expected))


def _swiglu(y: np.ndarray) -> np.ndarray:
    gate, up = np.split(y, 2, axis=-1)
    return gate / (1 + np.exp(-gate)) * up


def _workspace(num_tokens: int, num_experts: int, hidden: int) -> moe_router.Workspace:
    floats, ints = moe_router.workspace_sizes(num_tokens, num_experts, hidden)
    return moe_router.Workspace(np.full(floats, np.nan, np.float32), np.zeros(ints, np.int32))


@pytest.mark.parametrize("num_tokens", [1, 5, 20])
def test_uniform_linears_and_long_sums(num_tokens: int) -> None:
    """Every path of `uniform`, and sums that are cut: 8256 elements end in a part of their own."""
    for n, k in ((72, 192), (16, 8256)):
        x, w = _random(num_tokens, k), _random(n, k, scale=0.1)
        exact = _values(x) @ _values(w).T
        for uniform in (False, True):
            logits = np.full((num_tokens, n), np.nan, np.float32)
            linear.linear(x, w, logits, uniform=uniform)
            assert _error(logits, exact) < 1e-6
    most = np.full((1, 16), np.nan, np.float32)
    linear.linear(_rows(x, 1), w, most, uniform=True)
    assert np.array_equal(most, logits[:1])


def _rows(tensor: Bfloat16, count: int) -> Bfloat16:
    return Bfloat16(np.ascontiguousarray(tensor.bits[:count]))


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("k", [64, 192, 1024])
def test_norm_and_linear_in_one(k: int, silu: bool) -> None:
    x, residual, norm_weight, w = _random(1, k), _random(1, k), _random(k), _random(24, k, scale=0.1)
    total, out = _poison(1, k), _poison(1, 12 if silu else 24)
    norm_linear.add_norm_linear(x, residual, norm_weight, EPS, w, total, out, silu=silu)
    summed = _values(Bfloat16(float32_to_bfloat16((_values(x) + _values(residual)).astype(np.float32))))
    assert np.array_equal(_values(total), summed)
    y = summed / np.sqrt(np.square(summed).mean() + EPS) * _values(norm_weight)
    product = y @ _values(w).T
    assert _error(out, _swiglu(product) if silu else product) < 2 * BFLOAT16_ERROR  # y is rounded, too


@pytest.mark.parametrize("num_tokens, n, k", [(1, 64, 512), (3, 96, 512), (9, 64, 1024), (33, 160, 512), (4, 20, 64), (1, 12, 192)])
def test_linear(num_tokens: int, n: int, k: int) -> None:
    x, w, residual = _random(num_tokens, k), _random(n, k, scale=0.1), _random(num_tokens, n)
    exact = _values(x) @ _values(w).T
    logits = np.full((num_tokens, n), np.nan, np.float32)
    linear.linear(x, w, logits)
    assert _error(logits, exact) < 1e-6
    out = _poison(num_tokens, n)
    linear.linear(x, w, out, residual=residual)
    assert _error(out, exact + _values(residual)) < BFLOAT16_ERROR
    out = _poison(num_tokens, n // 2)
    linear.gate_up_silu(x, w, out)
    assert _error(out, _swiglu(exact)) < BFLOAT16_ERROR


@pytest.mark.parametrize("num_tokens", [1, 20])
@pytest.mark.parametrize("num_experts, choices", [(8, 3), (20, 6)])
def test_route(num_tokens: int, num_experts: int, choices: int) -> None:
    x, gate = _random(num_tokens, 128), (RNG.standard_normal((num_experts, 128)) * 0.1).astype(np.float32)
    bias = (RNG.standard_normal(num_experts) * 0.1).astype(np.float32)
    weights, ids = np.full((num_tokens, choices), np.nan, np.float32), np.full((num_tokens, choices), -7, np.int32)
    workspace = _workspace(num_tokens, num_experts, 128)
    moe_router.route(x, gate, bias, choices, NORM_MIN, weights, ids, workspace)
    p = np.exp(_values(x) @ gate.T.astype(np.float64))
    p /= p.sum(axis=1, keepdims=True)
    expected = np.argsort(-(p + bias), axis=1, kind="stable")[:, :choices]
    assert np.array_equal(ids, expected)
    chosen = np.take_along_axis(p, expected, axis=1)
    np.testing.assert_allclose(weights, chosen / chosen.sum(axis=1, keepdims=True), rtol=1e-5)
    assert not workspace.counters.any()


def test_equal_scores_go_to_the_lower_expert() -> None:
    weights, ids = np.full((1, 3), np.nan, np.float32), np.full((1, 3), -7, np.int32)
    no_bias = np.zeros(8, np.float32)
    moe_router.route(_random(1, 128), np.zeros((8, 128), np.float32), no_bias, 3, NORM_MIN, weights, ids, _workspace(1, 8, 128))
    assert ids.tolist() == [[0, 1, 2]]
    np.testing.assert_allclose(weights, 1 / 3, rtol=1e-6)


@pytest.mark.parametrize("num_tokens, num_parts", [(1, 1), (3, 2)])
def test_combine_norm_route_is_combine_then_route(num_tokens: int, num_parts: int) -> None:
    parts, residual, norm_weight = _random(num_tokens, num_parts, 512), _random(num_tokens, 512), _random(512)
    gate, bias = (RNG.standard_normal((20, 512)) * 0.1).astype(np.float32), np.zeros(20, np.float32)
    found = []
    for fused in (True, False):
        held, out = Bfloat16(residual.bits.copy()), _poison(num_tokens, 512)
        weights, ids = np.full((num_tokens, 6), np.nan, np.float32), np.full((num_tokens, 6), -7, np.int32)
        workspace = _workspace(num_tokens, 20, 512)
        if fused:
            moe_norm_router.combine_norm_route(parts, held, norm_weight, EPS, gate, bias, NORM_MIN, out, weights, ids, workspace)
        else:
            combine.combine_add_rms_norm(parts, None, held, norm_weight, EPS, out)
            moe_router.route(out, gate, bias, 6, NORM_MIN, weights, ids, workspace)
        assert not workspace.counters.any()
        found.append((held.bits, out.bits, weights, ids))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def _plan(ids: np.ndarray, num_experts: int, num_shared: int, tile: int) -> moe_router.ExpertPlan:
    most = moe_router.max_tiles(*ids.shape, num_experts, tile)
    plan = moe_router.ExpertPlan(tile, *(np.full(n, -9, np.int32) for n in (most * tile, most, 1)))
    moe_router.sort_by_expert(ids, num_experts, num_shared, plan)
    return plan


@pytest.mark.parametrize("num_tokens, tile", [(9, 8), (40, 32), (70, 16)])
def test_plan_lists_every_chosen_slot_once_under_its_expert(num_tokens: int, tile: int) -> None:
    ids = np.argsort(RNG.random((num_tokens, 8)), axis=1)[:, :3].astype(np.int32)
    plan, slots_per_token = _plan(ids, 8, 2, tile), 5
    sentinel, seen = num_tokens * slots_per_token, []
    for i in range(int(plan.num_tiles[0])):
        slots = plan.slots[i * tile : (i + 1) * tile]
        real = slots[slots < sentinel]
        assert len(real) and (slots[len(real) :] == sentinel).all()
        assert (ids[real // slots_per_token, real % slots_per_token] == plan.tile_expert[i]).all()
        seen += real.tolist()
    assert sorted(seen) == [t * slots_per_token + j for t in range(num_tokens) for j in range(3)]


def _check_experts(num_tokens: int, num_experts: int, choices: int, num_shared: int, tile: int | None) -> None:
    width = 256
    x = _random(num_tokens, width)
    gate_up = _random(num_experts + num_shared, 2 * width, width, scale=0.1)
    down = _random(num_experts + num_shared, width, width, scale=0.1)
    ids = np.argsort(RNG.random((num_tokens, num_experts)), axis=1)[:, :choices].astype(np.int32)
    routing = moe_experts.Routing(ids, None if tile is None else _plan(ids, num_experts, num_shared, tile), num_shared)
    act = _poison(num_tokens * routing.slots_per_token, width)
    parts = _poison(num_tokens, routing.slots_per_token, width)
    moe_experts.experts_gate_up(x, gate_up, routing, act)
    moe_experts.experts_down(act, down, routing, parts)
    shared = np.broadcast_to(np.arange(num_experts, num_experts + num_shared), (num_tokens, num_shared))
    experts = np.concatenate([ids, shared], axis=1).reshape(-1)
    tokens = np.repeat(np.arange(num_tokens), routing.slots_per_token)
    expected = np.stack([_swiglu(_values(gate_up)[e] @ _values(x)[t]) for e, t in zip(experts, tokens, strict=True)])
    assert _error(act, expected) < BFLOAT16_ERROR
    expected = np.stack([_values(down)[e] @ row for e, row in zip(experts, _values(act), strict=True)])
    assert _error(parts, expected.reshape(parts.shape)) < BFLOAT16_ERROR


@pytest.mark.parametrize("num_tokens, num_experts, choices, num_shared", [(1, 8, 3, 2), (2, 8, 3, 0), (5, 8, 3, 2), (12, 16, 6, 2)])
def test_experts_of_a_decode_step(num_tokens: int, num_experts: int, choices: int, num_shared: int) -> None:
    _check_experts(num_tokens, num_experts, choices, num_shared, moe_experts.plan_tile(num_tokens, num_experts, choices))


@pytest.mark.parametrize("num_shared", [0, 2])
def test_experts_of_a_prefill(monkeypatch: pytest.MonkeyPatch, num_shared: int) -> None:
    """The kernel for many tokens, brought down to few by smaller tiles."""
    monkeypatch.setattr(moe_experts, "TILE_TOKENS", 30)
    monkeypatch.setattr(moe_prefill, "tile_for", lambda slots: moe_prefill.PrefillTile(slots, 64, 64, 4, 3, 4))
    _check_experts(35, 8, 3, num_shared, tile=32)


@pytest.mark.parametrize("weighted", [0, 3])
def test_combine_weighs_the_routed_parts_only(weighted: int) -> None:
    parts, residual, norm_weight, out = _random(3, 5, 200), _random(3, 200), _random(200), _poison(3, 200)
    weights = RNG.random((3, weighted)).astype(np.float32) if weighted else None
    every = np.ones((3, 5, 1))
    if weights is not None:
        every[:, :weighted, 0] = weights
    total = _values(residual) + (_values(parts) * every).sum(axis=1)
    combine.combine_add_rms_norm(parts, weights, residual, norm_weight, EPS, out)
    assert _error(residual, total) < BFLOAT16_ERROR
    seen = _values(residual)
    assert _error(out, seen / np.sqrt((seen**2).mean(axis=1, keepdims=True) + EPS) * _values(norm_weight)) < BFLOAT16_ERROR
