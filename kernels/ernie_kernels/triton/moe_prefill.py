"""The experts of a mixture layer for many tokens: grouped products bound by the matrix unit; knows no router."""

from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from .. import launch
from ..launch import Argument as Tensor
from .gemm_common import expert_boxes, silu_mul, weight_rows
from .moe_router import ExpertPlan, max_tiles


@dataclass(frozen=True)
class PrefillTile:
    """One configuration: slots × weight rows × depth per step."""

    slots: int
    rows: int
    depth: int
    num_warps: int
    num_stages: int
    num_stages_bulk: int  # where bulk copies fetch the weights


GROUP = 8
"""Slot tiles whose row tiles run together, so that L2 holds their weights and tokens (4 and 16: no faster)."""


def slot_tile(tokens_per_expert: float) -> int:
    """Slots per tile: half a tile per expert is padding."""
    return 64 if tokens_per_expert <= 48 else 128


def tile_for(slots: int) -> PrefillTile:
    """The choice for a slot tile, by sweeps on an H200 over layers of 21B-A3B (gate_up, down in µs; TFLOP/s without padding; the card's own
    bfloat16 matmul: 800):

    | tokens | bulk 128 x 256 x 64 | pointers | bulk 64 x 256 x 64 |
    |---|---|---|---|
    | 512 | – | – | 284, 158 (left-operand weights: 305, 171) |
    | 1024 | 322, 172 | 356, 190 | 407, 216 (pointers) |
    | 4096 | 958, 543 (530) | – | – |
    | 8192 | 1600, 829 (636) on a cool card, 1889, 1017 (532) on a hot one | 1930, 1066 (516) | – |
    """
    return PrefillTile(slots, 256, 64, 8, 3, 4)


def launch_prefill(
    x: Tensor,  # [T, K] with paired, else [T · (k + n), K] bfloat16
    w: Tensor,  # [E + n, N, K] bfloat16
    ids: Tensor,  # [T, k] int32; only its shape counts
    plan: ExpertPlan,
    num_shared: int,
    out: Tensor,  # [T · (k + n), N / 2] with paired, else [T · (k + n), N]
    *,
    paired: bool,
    pdl: bool,
) -> None:
    """out[slot] = Wₑ x[slot's row], with paired: silu(gate) · up of it. `x` rows are gathered while they are loaded."""
    num_tokens, k = ids.shape
    num_experts, n, depth = w.shape[0] - num_shared, w.shape[1], w.shape[2]
    tile = tile_for(plan.tile)
    bulk = launch.runs_on_hopper(expert_prefill_kernel)
    assert depth % tile.depth == 0
    shared_tiles = num_shared * launch.cdiv(num_tokens, tile.slots)
    slot_tiles = shared_tiles + max_tiles(num_tokens, k, num_experts, tile.slots)
    launch.run(
        expert_prefill_kernel,
        (slot_tiles * launch.cdiv(n, tile.rows),),
        x,
        expert_boxes(w, tile.rows, tile.depth, paired) if bulk else w,
        plan.slots,
        plan.tile_expert,
        plan.num_tiles,
        out,
        num_tokens,
        n,
        depth,
        num_experts,
        slot_tiles,
        shared_tiles,
        CHOICES=k,
        SHARED=num_shared,
        SLOTS=tile.slots,
        ROWS=tile.rows,
        DEPTH=tile.depth,
        GROUP=GROUP,
        PAIRED=paired,
        BULK=bulk,
        RAGGED=n % tile.rows != 0,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages_bulk if bulk else tile.num_stages,
        pdl=pdl,
    )


@triton.jit(do_not_specialize=["T", "slot_tiles", "shared_tiles"])  # as in linear.tile_kernel
def expert_prefill_kernel(
    x_ptr,  # [T, K] with PAIRED, else [slots, K]
    w,  # [E + SHARED, N, K]: a pointer, or with BULK expert_boxes
    slots_ptr,
    tile_expert_ptr,
    num_tiles_ptr,
    out_ptr,  # [slots, N / 2] with PAIRED, else [slots, N]
    T,
    N,
    K,
    E,
    slot_tiles,
    shared_tiles,
    CHOICES: tl.constexpr,
    SHARED: tl.constexpr,
    SLOTS: tl.constexpr,
    ROWS: tl.constexpr,
    DEPTH: tl.constexpr,
    GROUP: tl.constexpr,
    PAIRED: tl.constexpr,
    BULK: tl.constexpr,
    RAGGED: tl.constexpr,
    PDL: tl.constexpr,
):
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    program = tl.program_id(0)
    row_tiles = tl.cdiv(N, ROWS)
    first = program // (GROUP * row_tiles) * GROUP
    group = tl.minimum(slot_tiles - first, GROUP)
    slot_tile = first + program % (GROUP * row_tiles) % group
    row_tile = program % (GROUP * row_tiles) // group

    slots_per_token: tl.constexpr = CHOICES + SHARED
    is_shared = slot_tile < shared_tiles
    listed_tile = slot_tile - shared_tiles
    if (not is_shared) & (listed_tile >= tl.load(num_tiles_ptr)):
        return
    lane = tl.arange(0, SLOTS)
    expert = tl.load(tile_expert_ptr + listed_tile, mask=not is_shared, other=0)
    slot = tl.load(slots_ptr + listed_tile * SLOTS + lane, mask=(lane >= 0) & (not is_shared), other=0)
    if SHARED > 0:
        tiles_each = tl.cdiv(T, SLOTS)
        member = slot_tile // tiles_each
        token = slot_tile % tiles_each * SLOTS + lane
        shared_slot = tl.where(token < T, token * slots_per_token + CHOICES + member, T * slots_per_token)
        expert = tl.where(is_shared, E + member, expert)
        slot = tl.where(is_shared, shared_slot, slot)
    real = slot < T * slots_per_token
    slot = tl.where(real, slot, 0)
    x_row = slot // slots_per_token if PAIRED else slot

    depth = tl.arange(0, DEPTH)
    x_pointers = x_ptr + x_row[:, None] * K + depth[None, :]
    total = tl.zeros([SLOTS, ROWS], tl.float32)
    if BULK:
        first = expert * 2 if PAIRED else expert
        second = row_tile * (ROWS // 2) if PAIRED else row_tile * ROWS
        for start in range(0, K, DEPTH):
            weights = tl.reshape(w.load([first, second, start]), [ROWS, DEPTH])
            total = tl.dot(tl.load(x_pointers), tl.trans(weights), total)
            x_pointers += DEPTH
    else:
        row = expert.to(tl.int64) * N + weight_rows(tl.arange(0, ROWS), row_tile, N, ROWS, PAIRED)
        w_pointers = w + row[None, :] * K + depth[:, None]
        for _step in range(0, K, DEPTH):
            total = tl.dot(tl.load(x_pointers), tl.load(w_pointers), total)
            x_pointers += DEPTH
            w_pointers += DEPTH

    inside = real[:, None]
    if PAIRED:
        gate, up = tl.split(tl.permute(tl.reshape(total, [SLOTS, 2, ROWS // 2]), [0, 2, 1]))
        out_row = row_tile * (ROWS // 2) + tl.arange(0, ROWS // 2)
        if RAGGED:
            inside = inside & (out_row < N // 2)[None, :]
        y = silu_mul(gate, up)
        tl.store(out_ptr + slot[:, None] * (N // 2) + out_row[None, :], y.to(out_ptr.dtype.element_ty), mask=inside)
    else:
        out_row = row_tile * ROWS + tl.arange(0, ROWS)
        if RAGGED:
            inside = inside & (out_row < N)[None, :]
        tl.store(out_ptr + slot[:, None] * N + out_row[None, :], total.to(out_ptr.dtype.element_ty), mask=inside)
