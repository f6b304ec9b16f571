"""The experts of a mixture layer for more than 512 tokens: grouped products bound by the matrix units; knows no router. Hopper has a kernel of
its own for them."""

from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from .. import launch
from ..launch import Argument as Tensor
from . import moe_prefill_hopper as hopper
from .gemm_common import silu_mul
from .moe_router import ExpertPlan, max_tiles


@dataclass(frozen=True)
class PrefillTile:
    """One configuration: slots × weight rows × depth per step."""

    slots: int
    rows: int
    depth: int
    group: int  # slot tiles whose row tiles run together, so that L2 holds their weights and tokens
    num_warps: int
    num_stages: int


TILE = 128
"""Slots per tile. Half a tile per expert is padding, of which the kernel for Hopper skips what comes in whole halves."""

_ANY_GPU = PrefillTile(TILE, 256, 64, 8, 8, 3)


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
    tile: PrefillTile | None = None,  # None: the measured choice for this GPU
) -> None:
    """out[slot] = Wₑ x[slot's row], with paired: silu(gate) · up of it. `x` rows are gathered while they are loaded."""
    num_tokens, k = ids.shape
    num_experts, n, depth = w.shape[0] - num_shared, w.shape[1], w.shape[2]
    if tile is None and launch.runs_on_hopper(expert_prefill_kernel) and hopper.can_serve(n, depth, plan.tile):
        hopper.launch_grouped(x, w, plan, num_tokens, k, num_shared, out, paired=paired)
        return
    tile = tile or _ANY_GPU
    assert tile.slots == plan.tile and n % tile.rows == 0 and depth % tile.depth == 0
    shared_tiles = num_shared * triton.cdiv(num_tokens, tile.slots)
    slot_tiles = shared_tiles + max_tiles(num_tokens, k, num_experts, tile.slots)
    launch.run(
        expert_prefill_kernel,
        (slot_tiles * (n // tile.rows),),
        x,
        w,
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
        GROUP=tile.group,
        PAIRED=paired,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        pdl=pdl,
    )


@triton.jit
def expert_prefill_kernel(
    x_ptr,  # [T, K] with PAIRED, else [slots, K]
    w_ptr,  # [E + SHARED, N, K]
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
    PDL: tl.constexpr,
):
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    program = tl.program_id(0)
    row_tiles = N // ROWS
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

    # Paired: gate and up rows alternate, so that both sums of an output meet in one thread's accumulators.
    row = tl.arange(0, ROWS)
    row = row % 2 * (N // 2) + row_tile * (ROWS // 2) + row // 2 if PAIRED else row_tile * ROWS + row
    depth = tl.arange(0, DEPTH)
    x_pointers = x_ptr + x_row[:, None] * K + depth[None, :]
    w_pointers = w_ptr + expert.to(tl.int64) * N * K + row[None, :] * K + depth[:, None]
    total = tl.zeros([SLOTS, ROWS], tl.float32)
    for _step in range(0, K, DEPTH):
        total = tl.dot(tl.load(x_pointers), tl.load(w_pointers), total)
        x_pointers += DEPTH
        w_pointers += DEPTH

    if PAIRED:
        gate, up = tl.split(tl.reshape(total, [SLOTS, ROWS // 2, 2]))
        out_row = row_tile * (ROWS // 2) + tl.arange(0, ROWS // 2)
        y = silu_mul(gate, up)
        tl.store(out_ptr + slot[:, None] * (N // 2) + out_row[None, :], y.to(out_ptr.dtype.element_ty), mask=real[:, None])
    else:
        out_row = row_tile * ROWS + tl.arange(0, ROWS)
        tl.store(out_ptr + slot[:, None] * N + out_row[None, :], total.to(out_ptr.dtype.element_ty), mask=real[:, None])
