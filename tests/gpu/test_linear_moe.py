"""Linears, router, experts and combine on the GPU at the sizes that are served, against float32 and float64 products of torch."""

from __future__ import annotations

import pytest
import torch

from ernie_kernels.triton import combine, linear, moe_experts, moe_norm_router, moe_router

BFLOAT16_ERROR = 3e-3  # relative to the norm; rounding one result to bfloat16 costs 1.7e-3
NUM_EXPERTS, NUM_SHARED, CHOICES, HIDDEN, INTERMEDIATE = 64, 2, 6, 2560, 1536  # 21B-A3B
NORM_MIN = 1e-12


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def _random(*shape: int, scale: float = 1.0, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="cuda").normal_(0, scale)


def _poison(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.full(shape, float("nan"), dtype=dtype, device="cuda")


def _error(out: torch.Tensor, expected: torch.Tensor) -> float:
    return float((out.double() - expected.double()).norm() / expected.double().norm())


def _swiglu(y: torch.Tensor) -> torch.Tensor:
    gate, up = y.chunk(2, dim=-1)
    return torch.nn.functional.silu(gate) * up


def _workspace(num_tokens: int, num_experts: int, hidden: int) -> moe_router.Workspace:
    floats, ints = moe_router.workspace_sizes(num_tokens, num_experts, hidden)
    return moe_router.Workspace(_poison(floats, dtype=torch.float32), torch.zeros(ints, dtype=torch.int32, device="cuda"))


@pytest.mark.parametrize("n, k", [(3584, 2560), (2560, 2560), (2560, 12288), (2560, 1024), (1024, 2048), (1024, 3072)])
@pytest.mark.parametrize("num_tokens", [1, 2, 3, 7, 16, 17, 33, 64, 100, 256, 511])
def test_linear(num_tokens: int, n: int, k: int) -> None:
    x, w, residual = _random(num_tokens, k), _random(n, k, scale=0.02), _random(num_tokens, n)
    exact = x.double() @ w.double().T
    for pdl in (False, True):
        out = _poison(num_tokens, n)
        linear.linear(x, w, out, pdl=pdl)
        assert _error(out, exact) < BFLOAT16_ERROR
    again = _poison(num_tokens, n)
    linear.linear(x, w, again)
    assert torch.equal(out, again)
    linear.linear(x, w, out, residual=residual)
    assert _error(out, exact + residual.double()) < BFLOAT16_ERROR
    out = _poison(num_tokens, n, dtype=torch.float32)
    linear.linear(x, w, out)
    assert _error(out, exact) < 1e-5


@pytest.mark.parametrize("n, k", [(6144, 1024), (24576, 2560)])
@pytest.mark.parametrize("num_tokens", [1, 2, 9, 31, 64, 300])
def test_gate_up_silu(num_tokens: int, n: int, k: int) -> None:
    x, w, out = _random(num_tokens, k), _random(n, k, scale=0.02), _poison(num_tokens, n // 2)
    linear.gate_up_silu(x, w, out)
    assert _error(out, _swiglu(x.double() @ w.double().T)) < BFLOAT16_ERROR


@pytest.mark.parametrize("num_tokens", [1, 5, 64])
def test_logits_of_the_whole_vocabulary(num_tokens: int) -> None:
    x, w = _random(num_tokens, 1024), _random(103424, 1024, scale=0.02)
    out = _poison(num_tokens, 103424, dtype=torch.float32)
    linear.linear(x, w, out)
    assert _error(out, x.float() @ w.float().T) < 1e-5


@pytest.mark.parametrize("num_tokens", [1, 2, 15, 16, 17, 100, 512, 513, 5000])
@pytest.mark.parametrize("num_experts, hidden, choices", [(64, 2560, 6), (64, 8192, 8), (48, 1024, 3)])
def test_route(num_tokens: int, num_experts: int, hidden: int, choices: int) -> None:
    x, gate = _random(num_tokens, hidden), _random(num_experts, hidden, scale=0.02, dtype=torch.float32)
    bias = _random(num_experts, scale=0.01, dtype=torch.float32)
    weights = _poison(num_tokens, choices, dtype=torch.float32)
    ids = torch.full((num_tokens, choices), -7, dtype=torch.int32, device="cuda")
    workspace = _workspace(num_tokens, num_experts, hidden)
    moe_router.route(x, gate, bias, choices, NORM_MIN, weights, ids, workspace)
    p = torch.softmax(x.double() @ gate.double().T, dim=-1)
    best, expected = (p + bias.double()).topk(choices + 1)
    clear = (best[:, :-1] - best[:, 1:]).min(dim=1).values > 1e-6  # closer scores may change places
    assert clear.float().mean() > 0.95
    assert torch.equal(ids[clear].long(), expected[clear][:, :-1])
    chosen = p.gather(1, ids.long())
    torch.testing.assert_close(weights.double(), chosen / chosen.sum(1, keepdim=True), rtol=1e-4, atol=1e-6)
    assert int(workspace.counters.abs().max()) == 0


def test_route_keeps_ids_in_range_whatever_x_holds() -> None:
    x, gate = _poison(3, 2560), _random(48, 2560, dtype=torch.float32)
    ids = torch.full((3, 6), -7, dtype=torch.int32, device="cuda")
    workspace = _workspace(3, 48, 2560)
    moe_router.route(x, gate, torch.zeros(48, device="cuda"), 6, NORM_MIN, _poison(3, 6, dtype=torch.float32), ids, workspace)
    assert int(ids.min()) >= 0 and int(ids.max()) < 48


def _routing(num_tokens: int, skewed: bool) -> moe_experts.Routing:
    score = torch.rand(num_tokens, NUM_EXPERTS, device="cuda")
    if skewed:
        score[:, 5:9] += 1  # four experts that every token uses
    ids = score.topk(CHOICES).indices.to(torch.int32)
    tile = moe_experts.plan_tile(num_tokens, NUM_EXPERTS, CHOICES)
    if tile is None:
        return moe_experts.Routing(ids, None, NUM_SHARED)
    most = moe_router.max_tiles(num_tokens, CHOICES, NUM_EXPERTS, tile)
    plan = moe_router.ExpertPlan(tile, *(torch.full((n,), 1 << 30, dtype=torch.int32, device="cuda") for n in (most * tile, most, 1)))
    moe_router.sort_by_expert(ids, NUM_EXPERTS, NUM_SHARED, plan)
    return moe_experts.Routing(ids, plan, NUM_SHARED)


@pytest.mark.parametrize("num_tokens", [9, 64, 256, 257, 513, 3000, 9001])
@pytest.mark.parametrize("skewed", [False, True])
def test_plan_lists_every_chosen_slot_once_under_its_expert(num_tokens: int, skewed: bool) -> None:
    routing = _routing(num_tokens, skewed)
    plan, slots_per_token = routing.plan, CHOICES + NUM_SHARED
    assert plan is not None
    num_tiles = int(plan.num_tiles)
    slots = plan.slots[: num_tiles * plan.tile].reshape(num_tiles, plan.tile).long()
    real = slots < num_tokens * slots_per_token
    assert bool((slots[~real] == num_tokens * slots_per_token).all()) and bool(real.any(dim=1).all())
    listed = slots[real]
    assert bool((listed % slots_per_token < CHOICES).all())
    chosen = routing.ids[listed // slots_per_token, listed % slots_per_token]
    assert torch.equal(chosen, plan.tile_expert[:num_tiles].repeat_interleave(real.sum(dim=1)))
    assert len(listed) == len(listed.unique()) == num_tokens * CHOICES
    assert torch.equal(chosen, chosen.sort().values)


@pytest.fixture(scope="module")
def experts() -> tuple[torch.Tensor, torch.Tensor]:
    count = NUM_EXPERTS + NUM_SHARED
    return _random(count, 2 * INTERMEDIATE, HIDDEN, scale=0.02), _random(count, HIDDEN, INTERMEDIATE, scale=0.02)


@pytest.mark.parametrize("num_tokens", [1, 2, 4, 7, 8, 9, 16, 17, 33, 64, 130, 256, 257, 512, 513, 1000, 2500])
@pytest.mark.parametrize("skewed", [False, True])
def test_experts(experts: tuple[torch.Tensor, torch.Tensor], num_tokens: int, skewed: bool) -> None:
    gate_up, down = experts
    routing, slots_per_token = _routing(num_tokens, skewed), CHOICES + NUM_SHARED
    x = _random(num_tokens, HIDDEN)
    for pdl in (False, True):
        act = _poison(num_tokens * slots_per_token, INTERMEDIATE)
        parts = _poison(num_tokens, slots_per_token, HIDDEN)
        moe_experts.experts_gate_up(x, gate_up, routing, act, pdl=pdl)
        moe_experts.experts_down(act, down, routing, parts, pdl=pdl)
    expected_act, expected_parts = torch.empty_like(act, dtype=torch.float32), torch.empty_like(parts, dtype=torch.float32)
    shared = torch.arange(NUM_EXPERTS, NUM_EXPERTS + NUM_SHARED, device="cuda").expand(num_tokens, NUM_SHARED)
    assigned = torch.cat([routing.ids.long(), shared], dim=1).flatten()
    flat_parts = expected_parts.view(-1, HIDDEN)
    for expert in assigned.unique().tolist():
        slots = (assigned == expert).nonzero()[:, 0]
        expected_act[slots] = _swiglu(x[slots // slots_per_token].float() @ gate_up[expert].float().T)
        flat_parts[slots] = act[slots].float() @ down[expert].float().T
    assert _error(act, expected_act) < BFLOAT16_ERROR
    assert _error(parts, expected_parts) < BFLOAT16_ERROR


@pytest.mark.parametrize("num_tokens", [1, 77])
@pytest.mark.parametrize("hidden, num_parts, weighted", [(2560, 8, 6), (1024, 1, 0), (8192, 8, 8)])
@pytest.mark.parametrize("residual_dtype", [torch.bfloat16, torch.float32])
def test_combine(num_tokens: int, hidden: int, num_parts: int, weighted: int, residual_dtype: torch.dtype) -> None:
    parts, residual = _random(num_tokens, num_parts, hidden), _random(num_tokens, hidden, dtype=residual_dtype)
    weights = torch.rand(num_tokens, weighted, device="cuda") if weighted else None
    norm_weight, out = _random(hidden), _poison(num_tokens, hidden)
    every = torch.ones(num_tokens, num_parts, 1, dtype=torch.float64, device="cuda")
    if weights is not None:
        every[:, :weighted, 0] = weights.double()
    total = residual.double() + (parts.double() * every).sum(1)
    combine.combine_add_rms_norm(parts, weights, residual, norm_weight, 1e-5, out)
    assert _error(residual, total) < (1e-6 if residual_dtype == torch.float32 else BFLOAT16_ERROR)
    seen = residual.double()
    normed = seen * torch.rsqrt(seen.square().mean(1, keepdim=True) + 1e-5) * norm_weight.double()
    assert _error(out, normed) < BFLOAT16_ERROR


@pytest.mark.parametrize("num_tokens", [1, 3, 8])
@pytest.mark.parametrize("hidden, num_experts, choices, num_parts", [(2560, 64, 6, 1), (8192, 64, 8, 1), (1024, 48, 3, 2)])
@pytest.mark.parametrize("residual_dtype", [torch.bfloat16, torch.float32])
def test_combine_norm_route_is_combine_then_route(
    num_tokens: int, hidden: int, num_experts: int, choices: int, num_parts: int, residual_dtype: torch.dtype
) -> None:
    parts, residual = _random(num_tokens, num_parts, hidden), _random(num_tokens, hidden, dtype=residual_dtype)
    norm_weight = _random(hidden)
    gate = _random(num_experts, hidden, scale=0.02, dtype=torch.float32)
    bias = _random(num_experts, scale=0.01, dtype=torch.float32)
    workspace = _workspace(num_tokens, num_experts, hidden)
    found = []
    for fused in (True, False):
        held, out = residual.clone(), _poison(num_tokens, hidden)
        weights, ids = _poison(num_tokens, choices, dtype=torch.float32), torch.full((num_tokens, choices), -7, device="cuda").int()
        if fused:
            moe_norm_router.combine_norm_route(parts, held, norm_weight, 1e-5, gate, bias, NORM_MIN, out, weights, ids, workspace)
        else:
            combine.combine_add_rms_norm(parts, None, held, norm_weight, 1e-5, out)
            moe_router.route(out, gate, bias, choices, NORM_MIN, weights, ids, workspace)
        found.append((held, out, weights, ids))
    (held, out, weights, ids), (expected_held, expected_out, expected_weights, expected_ids) = found
    assert torch.equal(held, expected_held)
    assert _error(out, expected_out) < BFLOAT16_ERROR and float((out != expected_out).float().mean()) < 1e-3
    assert torch.equal(ids, expected_ids)
    torch.testing.assert_close(weights, expected_weights, rtol=1e-3, atol=1e-5)
    assert int(workspace.counters.abs().max()) == 0
