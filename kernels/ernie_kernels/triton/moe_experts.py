"""The experts of a mixture layer for up to 512 tokens (decode): which kernel runs when; the shared experts ride along. Knows no router.

Shared experts are stored as experts E, E+1, … of the same tensors (a shared SwiGLU of width n · I is the sum of n of width I) and serve
every token with weight 1. Their programs come first in every grid and fetch their weights into L2 before they wait for the router, so
that the memory works while norm and router, which are all latency, run. One answer per slot (see `moe_router.ExpertPlan`); who sums them
is `combine.combine_add_rms_norm`.

1 token: a matrix-vector product per slot. 2 to 8: weights times all tokens, per distinct expert, straight from the ids. Up to 256:
weights times the expert's own tokens, by plan. More: `moe_prefill`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from .. import launch
from ..launch import Argument as Tensor
from . import moe_prefill
from .gemm_common import boxed_tile_product, expert_boxes, prefetch_to_l2, silu_mul, tile_product, weight_rows
from .moe_router import ExpertPlan, max_tiles

UNSORTED_TOKENS = 8
"""Up to here no plan is needed."""

TILE_TOKENS = 256
"""Up to here weights are the left operand, above tokens are."""


@dataclass(frozen=True)
class ExpertTile:
    """One configuration of the kernel for 2 to TILE_TOKENS tokens."""

    rows: int  # weight rows per program (gate and up: half of each)
    tokens: int  # columns; with a plan: plan.tile
    depth: int  # elements of K per step
    num_warps: int
    num_stages: int
    bulk: bool  # fetch weights by bulk copies where the GPU has them


@dataclass(frozen=True)
class Routing:
    """Where each token goes, and how many experts there are."""

    ids: Tensor  # [T, k] int32
    plan: ExpertPlan | None  # from sort_by_expert with tile = plan_tile(T, E, k); None while T ≤ UNSORTED_TOKENS
    num_shared: int

    @property
    def slots_per_token(self) -> int:
        return int(self.ids.shape[1]) + self.num_shared


def plan_tile(num_tokens: int, num_experts: int, experts_per_token: int) -> int | None:
    """The tile that the plan for `num_tokens` tokens must have; None: no plan. Most experts' tokens should fit into one tile."""
    if num_tokens <= UNSORTED_TOKENS:
        return None
    per_expert = num_tokens * experts_per_token / num_experts
    if num_tokens > TILE_TOKENS:
        return moe_prefill.slot_tile(per_expert)
    return 8 if per_expert <= 4 else 16 if per_expert <= 8 else 32


def experts_gate_up(
    x: Tensor,  # [T, H] bfloat16
    gate_up: Tensor,  # [E + n, 2·I, H] bfloat16, gate rows first
    routing: Routing,
    act_out: Tensor,  # [T · (k + n), I] bfloat16
    *,
    uniform: bool = False,
    pdl: bool = True,
) -> None:
    """act_out[slot of (t, e)] = silu(Gₑ x[t]) · (Uₑ x[t]). H and I multiples of 64.

    `uniform`: the order of a slot's sum does not depend on T (see `linear.linear`).
    """
    _launch(x, gate_up, routing, act_out, paired=True, uniform=uniform, pdl=pdl)


def experts_down(
    act: Tensor,  # [T · (k + n), I] bfloat16
    down: Tensor,  # [E + n, H, I] bfloat16
    routing: Routing,
    parts_out: Tensor,  # [T, k + n, H] bfloat16 or float32
    *,
    uniform: bool = False,
    pdl: bool = True,
) -> None:
    """parts_out[slot of (t, e)] = Dₑ act[slot]; not yet weighted.

    With pdl the kernel just before must be that of `experts_gate_up` with the same routing: it lets this one start only when ids and plan
    are written, so that this one reads them, and its weights, while the other still runs.
    """
    _launch(act, down, routing, parts_out, paired=False, uniform=uniform, pdl=pdl)


def _launch(x: Tensor, w: Tensor, routing: Routing, out: Tensor, *, paired: bool, uniform: bool, pdl: bool) -> None:
    num_tokens = routing.ids.shape[0]
    assert x.shape[-1] == w.shape[2] and w.shape[2] % 64 == 0 and w.shape[1] % 8 == 0
    if num_tokens == 1 and not uniform:
        launch_gemv(x, w, routing, out, paired=paired, pdl=pdl)
        return
    assert (routing.plan is None) == (num_tokens <= UNSORTED_TOKENS), "a plan is needed above UNSORTED_TOKENS tokens, and only there"
    if routing.plan is not None and num_tokens > TILE_TOKENS:
        moe_prefill.launch_prefill(x, w, routing.ids, routing.plan, routing.num_shared, out, paired=paired, pdl=pdl)
        return
    tokens = routing.plan.tile if routing.plan else UNSORTED_TOKENS
    launch_tiles(x, w, routing, out, expert_tile(tokens), paired=paired, pdl=pdl)


def expert_tile(tokens: int) -> ExpertTile:
    """The choice for a token tile, by sweeps on an H200 over layers of 21B-A3B (64 + 2 experts; gate_up, down in µs, and TB/s of the
    weights of the chosen experts; the card read 4.37 TB/s):

    | tokens | tile | gate_up | down | next best |
    |---|---|---|---|---|
    | 4 | 64 x 8 x 256 | 88 (4.02) | 45 (3.97) | 64 x 8 x 128: 92 (3.86), 49 |
    | 16 | 64 x 8 x 256 | 201 (4.25) | 100 (4.25) | 64 x 16 x 128 bulk: 196 (4.22), 111 |
    | 32 | 64 x 8 x 256 | 235 (4.18) | 119 (4.13) | 64 x 16 x 128: 236, 131 |
    | 64 | 64 x 16 x 128 bulk | 246 (4.21) | 130 (3.97) | 128 x 16 x 64 bulk: 253, 131; without bulk: 250, 130 |
    | 128 | 128 x 32 x 64 bulk | 266 (3.91) | 141 (3.68) | 128 x 16 x 64 bulk: 271, 137; without bulk: 266, 142 |
    | 256 | 128 x 32 x 64 bulk | 276 (3.75) | 147 (3.53) | 64 x 32 x 128 bulk: 278, 150; without bulk: 285, 154 |

    Tile 32 later, ms of a whole step of 256 tokens on an H100: 256 x 32 x 64 in 8 warps and 3 stages 21.35 (4 stages 21.89), 128 x 32 x 128
    21.58, 64 x 32 x 128 21.62, 128 x 32 x 64 22.07 (5 stages 21.65, 8 warps 22.10); 256 x 64 x 64 21.70, 128 x 64 x 64 22.81.
    """
    if tokens == 8:
        return ExpertTile(64, 8, 256, 4, 3, bulk=False)
    return ExpertTile(64, 16, 128, 4, 4, bulk=True) if tokens == 16 else ExpertTile(256, tokens, 64, 8, 3, bulk=True)


def launch_gemv(x: Tensor, w: Tensor, routing: Routing, out: Tensor, *, paired: bool, pdl: bool, rows: int = 4, num_warps: int = 4) -> None:
    """One token: programs of `rows` weight rows of one slot's expert."""
    k = int(routing.ids.shape[1])
    num_experts, n, depth = w.shape[0] - routing.num_shared, w.shape[1], w.shape[2]
    assert routing.ids.shape[0] == 1 and n % rows == 0
    launch.run(
        expert_gemv_kernel,
        (n // rows, routing.slots_per_token),
        x,
        w,
        routing.ids,
        out,
        n,
        num_experts,
        k,
        K=depth,
        SHARED=routing.num_shared,
        ROWS=rows,
        BLOCK=min(depth & -depth, 4096),
        PAIRED=paired,
        LANES=max(rows, 32 * num_warps),
        num_warps=num_warps,
        pdl=pdl,
    )


def launch_tiles(x: Tensor, w: Tensor, routing: Routing, out: Tensor, tile: ExpertTile, *, paired: bool, pdl: bool) -> None:
    """2 to TILE_TOKENS tokens, in one given configuration."""
    num_tokens, k = routing.ids.shape
    num_experts, n, depth = w.shape[0] - routing.num_shared, w.shape[1], w.shape[2]
    if depth % tile.depth:
        tile = replace(tile, depth=64)
    plan = routing.plan
    bulk = tile.bulk and launch.runs_on_hopper(expert_tile_kernel)
    row_tiles = launch.cdiv(n, tile.rows)
    if plan is None:
        assert num_tokens <= tile.tokens
        candidates = min(num_tokens * k, num_experts)
    else:
        assert plan.tile == tile.tokens
        candidates = max_tiles(num_tokens, k, num_experts, plan.tile)
    shared_tiles = routing.num_shared * launch.cdiv(num_tokens, tile.tokens)
    launch.run(
        expert_tile_kernel,
        (row_tiles * (shared_tiles + candidates),),
        x,
        w,
        expert_boxes(w, tile.rows, tile.depth, paired) if bulk else w,
        routing.ids,
        routing.ids if plan is None else plan.slots,
        routing.ids if plan is None else plan.tile_expert,
        routing.ids if plan is None else plan.num_tiles,
        out,
        num_tokens,
        n,
        depth,
        num_experts,
        k,
        candidates,
        CHOICES=launch.next_power_of_2(k),
        SHARED=routing.num_shared,
        ROWS=tile.rows,
        TOKENS=tile.tokens,
        DEPTH=tile.depth,
        PAIRED=paired,
        BULK=bulk,
        SORTED=plan is not None,
        LANES=max(tile.rows, 32 * tile.num_warps),
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        pdl=pdl,
    )


@triton.jit
def expert_gemv_kernel(
    x_ptr,  # [1, K] with PAIRED, else [slots, K]
    w_ptr,  # [E + SHARED, N, K]
    ids_ptr,  # [k]
    out_ptr,  # [slots, N / 2] with PAIRED, else [slots, N]
    N,
    E,
    k,
    K: tl.constexpr,
    SHARED: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    PAIRED: tl.constexpr,
    LANES: tl.constexpr,
    PDL: tl.constexpr,
):
    tile, member = tl.program_id(0), tl.program_id(1)
    is_shared = member < SHARED
    slot = tl.where(is_shared, k + member, member - SHARED)
    if PDL and PAIRED:
        if is_shared:
            lane = tl.arange(0, LANES)
            early = (E + member).to(tl.int64) * N + weight_rows(lane, tile, N, ROWS, PAIRED)
            prefetch_to_l2(w_ptr + early * K, tl.where(lane < ROWS, K * 2, 0))
        gdc_wait()
        gdc_launch_dependents()  # after the wait, so that the next kernel finds the ids written (see experts_down)
    if PDL and not PAIRED:
        gdc_launch_dependents()  # as in linear.gemv_kernel (15.6 instead of 17.6 µs)
    expert = tl.load(ids_ptr + slot, mask=slot < k, other=0)
    expert = tl.where(is_shared, E + member, expert)
    row = expert.to(tl.int64) * N + weight_rows(tl.arange(0, ROWS), tile, N, ROWS, PAIRED)
    column = tl.arange(0, BLOCK)
    weights = ()
    for block in tl.static_range(K // BLOCK):
        pointers = w_ptr + row[:, None] * K + block * BLOCK + column[None, :]
        weights = weights + (tl.load(pointers, eviction_policy="evict_first"),)  # type: ignore[assignment]  # noqa: RUF005
    if PDL and not PAIRED:
        gdc_wait()
    x_pointers = x_ptr + (row * 0).to(tl.int32)[:, None] + column[None, :]  # in the layout of the weights
    if not PAIRED:
        x_pointers += slot * K
    total = tl.zeros([ROWS, BLOCK], tl.float32)
    for block in tl.static_range(K // BLOCK):
        total += weights[block].to(tl.float32) * tl.load(x_pointers + block * BLOCK).to(tl.float32)
    y = tl.sum(total, axis=1)
    if PAIRED:
        gate, up = tl.split(tl.trans(tl.reshape(y, [2, ROWS // 2])))
        out_row = tile * (ROWS // 2) + tl.arange(0, ROWS // 2)
        tl.store(out_ptr + slot * (N // 2) + out_row, silu_mul(gate, up).to(out_ptr.dtype.element_ty))
    else:
        out_row = tile * ROWS + tl.arange(0, ROWS)
        tl.store(out_ptr + slot * N + out_row, y.to(out_ptr.dtype.element_ty))


@triton.jit(do_not_specialize=["T", "candidates"])  # as in linear.tile_kernel
def expert_tile_kernel(
    x_ptr,  # [T, K] with PAIRED, else [slots, K]
    w_ptr,  # [E + SHARED, N, K]
    w_boxes,  # with BULK: the same as expert_boxes
    ids_ptr,  # [T, k]
    slots_ptr,  # plan.slots; the last three only with SORTED
    tile_expert_ptr,
    num_tiles_ptr,
    out_ptr,  # [slots, N / 2] with PAIRED, else [slots, N]
    T,
    N,
    K,
    E,
    k,
    candidates,  # routed tiles per row tile; without SORTED: ids, or experts if those are fewer
    CHOICES: tl.constexpr,
    SHARED: tl.constexpr,
    ROWS: tl.constexpr,
    TOKENS: tl.constexpr,
    DEPTH: tl.constexpr,
    PAIRED: tl.constexpr,
    BULK: tl.constexpr,
    SORTED: tl.constexpr,
    LANES: tl.constexpr,
    PDL: tl.constexpr,
):
    # Neighbours share weight rows (several token tiles of one expert), so that L2 serves all but the first.
    program = tl.program_id(0)
    row_tiles = tl.cdiv(N, ROWS)
    token_tiles = tl.cdiv(T, TOKENS)
    shared_programs = SHARED * row_tiles * token_tiles
    is_shared = program < shared_programs
    routed = program - shared_programs
    row_tile = tl.where(is_shared, program // token_tiles % row_tiles, routed // candidates)
    member = tl.where(is_shared, program // token_tiles // row_tiles, routed % candidates)
    if PDL and PAIRED:
        if is_shared:
            lane = tl.arange(0, LANES)
            early = (E + member).to(tl.int64) * N + weight_rows(lane, row_tile, N, ROWS, PAIRED)
            prefetch_to_l2(w_ptr + early * K, tl.where(lane < ROWS, K * 2, 0))
        gdc_wait()
        gdc_launch_dependents()  # after the wait, so that the next kernel finds ids and plan written (see experts_down)

    slots_per_token = k + SHARED
    token = (program % token_tiles) * TOKENS + tl.arange(0, TOKENS)
    shared_slot = tl.where(token < T, token * slots_per_token + k + member, T * slots_per_token)
    if SORTED:
        active = is_shared | (member < tl.load(num_tiles_ptr))
        listed = active & (not is_shared)
        expert = tl.load(tile_expert_ptr + member, mask=listed, other=0)
        slot = tl.load(slots_ptr + member * TOKENS + tl.arange(0, TOKENS), mask=listed, other=0)
    else:
        token = tl.arange(0, TOKENS)
        choice = tl.arange(0, CHOICES)
        index = token[:, None] * k + choice[None, :]
        ids = tl.load(ids_ptr + index, mask=(token < T)[:, None] & (choice < k)[None, :], other=-1)
        by_slot = candidates == T * k
        expert = tl.load(ids_ptr + member, mask=by_slot & (not is_shared), other=0)
        expert = tl.where(by_slot, expert, member)
        hit = ids == expert
        first = tl.min(tl.where(hit, index, T * k))
        active = is_shared | (first == tl.where(by_slot, member, first)) & (first < T * k)
        rank = tl.max(tl.where(hit, choice[None, :], -1), axis=1)
        slot = tl.where(rank >= 0, token * slots_per_token + rank, T * slots_per_token)
    if not active:
        return
    expert = tl.where(is_shared, E + member, expert)
    slot = tl.where(is_shared, shared_slot, slot)
    real = slot < T * slots_per_token
    slot = tl.where(real, slot, 0)
    x_row = slot // slots_per_token if PAIRED else slot

    if PDL and not PAIRED:
        lane = tl.arange(0, LANES)
        early = expert.to(tl.int64) * N + weight_rows(lane, row_tile, N, ROWS, PAIRED)
        prefetch_to_l2(w_ptr + early * K, tl.where(lane < ROWS, tl.minimum(512, K * 2), 0))
        gdc_wait()
        gdc_launch_dependents()
    if BULK:
        first = expert * 2 if PAIRED else expert
        second = row_tile * (ROWS // 2) if PAIRED else row_tile * ROWS
        total = boxed_tile_product(w_boxes, first, second, x_ptr + x_row * K, K, ROWS, TOKENS, DEPTH)
    else:
        row = expert.to(tl.int64) * N + weight_rows(tl.arange(0, ROWS), row_tile, N, ROWS, PAIRED)
        total = tile_product(w_ptr + row * K, x_ptr + x_row * K, K, ROWS, TOKENS, DEPTH, 1)

    if PAIRED:
        gate, up = tl.split(tl.permute(tl.reshape(total, [2, ROWS // 2, TOKENS]), [1, 2, 0]))
        out_row = row_tile * (ROWS // 2) + tl.arange(0, ROWS // 2)
        inside = real[None, :] & (out_row < N // 2)[:, None]
        y = silu_mul(gate, up)
        tl.store(out_ptr + slot[None, :] * (N // 2) + out_row[:, None], y.to(out_ptr.dtype.element_ty), mask=inside)
    else:
        out_row = row_tile * ROWS + tl.arange(0, ROWS)
        inside = real[None, :] & (out_row < N)[:, None]
        tl.store(out_ptr + slot[None, :] * N + out_row[:, None], total.to(out_ptr.dtype.element_ty), mask=inside)
