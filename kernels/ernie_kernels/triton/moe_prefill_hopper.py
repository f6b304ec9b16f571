"""The experts' grouped products for more than 512 tokens on Hopper: the same function as `moe_prefill`, in Gluon; knows no router.

One program per multiprocessor takes tile after tile. A group of four warps fills the buffers: token rows gathered element-wise (Hopper's bulk
copies cannot gather), weights by bulk copies. Two groups multiply 64 slots each, and a group whose slots are all padding leaves the matrix
unit to the other: the last tile of an expert then costs half.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    async_copy,
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from .. import launch
from ..launch import Argument as Tensor
from .moe_router import ExpertPlan

SLOTS = gl.constexpr(128)
"""Slots, weight rows and depth of a step of a tile."""

ROWS = gl.constexpr(256)
DEPTH = gl.constexpr(64)

LAG = gl.constexpr(2)
"""Steps whose gathered rows are under way while more are asked for; less than the number of buffers."""


def can_serve(rows: int, depth: int, slots: int) -> bool:
    """Whether `launch_grouped` takes weights [E, rows, depth] with this slot tile."""
    return slots == SLOTS.value and rows % ROWS.value == 0 and depth % DEPTH.value == 0


def launch_grouped(
    x: Tensor,
    w: Tensor,
    plan: ExpertPlan,
    num_tokens: int,
    choices: int,
    num_shared: int,
    out: Tensor,
    *,
    paired: bool,
    programs: int = 132,
    group: int = 8,
    stages: int = 4,
) -> None:
    """`moe_prefill.launch_prefill` for arguments that it has checked; out bfloat16."""
    experts, rows, depth = w.shape
    layout = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16)
    launch.run(
        grouped_kernel,
        (programs,),
        x,
        TensorDescriptor(w, [experts * rows, depth], [depth, 1], [ROWS.value // 2, DEPTH.value], layout),
        plan.slots,
        plan.tile_expert,
        plan.num_tiles,
        out,
        num_tokens,
        rows,
        depth,
        experts - num_shared,
        CHOICES=choices,
        SHARED=num_shared,
        STAGES=stages,
        GROUP=group,
        PAIRED=paired,
        num_warps=4,
    )


@gluon.jit
def grouped_kernel(
    x_ptr,  # [T, K] with PAIRED, else [slots, K]
    w_descriptor,  # [(E + SHARED) · N, K], boxes of [ROWS / 2, DEPTH]
    slots_ptr,
    tile_expert_ptr,
    num_tiles_ptr,
    out_ptr,  # [slots, N / 2] with PAIRED, else [slots, N]
    T,
    N,
    K,
    E,
    CHOICES: gl.constexpr,
    SHARED: gl.constexpr,
    STAGES: gl.constexpr,
    GROUP: gl.constexpr,
    PAIRED: gl.constexpr,
):
    tiles_each = gl.cdiv(T, SLOTS)
    slot_tiles = SHARED * tiles_each + gl.load(num_tiles_ptr)
    layout: gl.constexpr = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
    x_shared = gl.allocate_shared_memory(gl.bfloat16, [STAGES, SLOTS, DEPTH], layout)
    w_shared = gl.allocate_shared_memory(gl.bfloat16, [STAGES, ROWS, DEPTH], layout)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(STAGES):
        mbarrier.init(full.index(i), count=2)  # the gathered rows, and the bulk copies' bytes
        mbarrier.init(empty.index(i), count=2)  # both multiplying groups
    fence_async_shared()
    gl.warp_specialize(
        [
            (
                _multiply,
                (
                    gl.constexpr(0),
                    x_shared,
                    w_shared,
                    full,
                    empty,
                    slots_ptr,
                    out_ptr,
                    T,
                    N,
                    K,
                    tiles_each,
                    slot_tiles,
                    CHOICES,
                    SHARED,
                    STAGES,
                    GROUP,
                    PAIRED,
                ),
            ),
            (
                _multiply,
                (
                    gl.constexpr(1),
                    x_shared,
                    w_shared,
                    full,
                    empty,
                    slots_ptr,
                    out_ptr,
                    T,
                    N,
                    K,
                    tiles_each,
                    slot_tiles,
                    CHOICES,
                    SHARED,
                    STAGES,
                    GROUP,
                    PAIRED,
                ),
            ),
            (
                _copy,
                (
                    x_ptr,
                    w_descriptor,
                    x_shared,
                    w_shared,
                    full,
                    empty,
                    slots_ptr,
                    tile_expert_ptr,
                    T,
                    N,
                    K,
                    E,
                    tiles_each,
                    slot_tiles,
                    CHOICES,
                    SHARED,
                    STAGES,
                    GROUP,
                    PAIRED,
                ),
            ),
        ],
        worker_num_warps=[4, 4],
        worker_num_regs=[216, 72],
    )


@gluon.jit
def _tile(index, slot_tiles, row_tiles, GROUP: gl.constexpr):
    """Slot tile and row tile number `index`: row tile after row tile for GROUP slot tiles, whose weights and tokens L2 then holds."""
    first = index // (GROUP * row_tiles) * GROUP
    group = gl.minimum(slot_tiles - first, GROUP)
    within = index % (GROUP * row_tiles)
    return first + within % group, within // group


@gluon.jit
def _slots_of(slot_tile, lane, slots_ptr, T, tiles_each, CHOICES: gl.constexpr, SHARED: gl.constexpr):
    """The slots at `lane` (0..SLOTS-1) of a tile; T · (CHOICES + SHARED) where there is none. Shared experts' tiles come first."""
    PER_TOKEN: gl.constexpr = CHOICES + SHARED
    is_shared = slot_tile < SHARED * tiles_each
    token = slot_tile % tiles_each * SLOTS + lane
    shared = gl.where(token < T, token * PER_TOKEN + CHOICES + slot_tile // tiles_each, T * PER_TOKEN)
    listed = gl.load(slots_ptr + (slot_tile - SHARED * tiles_each) * SLOTS + lane, mask=lane < gl.where(is_shared, 0, SLOTS), other=0)
    return gl.where(is_shared, shared, listed)


@gluon.jit
def _copy(
    x_ptr,
    w_descriptor,
    x_shared,
    w_shared,
    full,
    empty,
    slots_ptr,
    tile_expert_ptr,
    T,
    N,
    K,
    E,
    tiles_each,
    slot_tiles,
    CHOICES: gl.constexpr,
    SHARED: gl.constexpr,
    STAGES: gl.constexpr,
    GROUP: gl.constexpr,
    PAIRED: gl.constexpr,
):
    """Fills buffer after buffer: a step of a tile each."""
    PER_TOKEN: gl.constexpr = CHOICES + SHARED
    HALF: gl.constexpr = ROWS // 2
    layout: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [4, 1], [1, 0])
    shared_layout: gl.constexpr = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
    w_halves = w_shared._reinterpret(gl.bfloat16, [STAGES * 2, HALF, DEPTH], shared_layout)
    row_tiles = N // ROWS
    second = N // 2 if PAIRED else HALF  # gate rows and the up rows that belong to them, or neighbours
    depth = gl.arange(0, DEPTH, gl.SliceLayout(0, layout))
    step = 0
    for index in range(gl.program_id(0), slot_tiles * row_tiles, gl.num_programs(0)):
        slot_tile, row_tile = _tile(index, slot_tiles, row_tiles, GROUP)
        is_shared = slot_tile < SHARED * tiles_each
        listed = gl.load(tile_expert_ptr + gl.maximum(slot_tile - SHARED * tiles_each, 0))
        expert = gl.where(is_shared, E + slot_tile // tiles_each, listed)
        lane = gl.arange(0, SLOTS, gl.SliceLayout(1, layout))
        slot = _slots_of(slot_tile, lane, slots_ptr, T, tiles_each, CHOICES, SHARED)
        slot = gl.minimum(slot, T * PER_TOKEN - 1)
        x_row = slot // PER_TOKEN if PAIRED else slot
        x_pointers = x_ptr + (x_row[:, None] * K + depth[None, :])
        w_row = expert * N + row_tile * (HALF if PAIRED else ROWS)
        for start in range(0, K, DEPTH):
            stage = step % STAGES
            mbarrier.wait(empty.index(stage), ((step // STAGES) & 1) ^ 1)
            mbarrier.expect(full.index(stage), ROWS * DEPTH * 2)
            tma.async_copy_global_to_shared(w_descriptor, [w_row, start], full.index(stage), w_halves.index(2 * stage))
            tma.async_copy_global_to_shared(w_descriptor, [w_row + second, start], full.index(stage), w_halves.index(2 * stage + 1))
            async_copy.async_copy_global_to_shared(x_shared.index(stage), x_pointers + start)
            async_copy.commit_group()
            step += 1
            if step > LAG:
                _hand_over(full, step - 1 - LAG, LAG, STAGES)
    for behind in gl.static_range(LAG):
        if step > LAG - 1 - behind:
            _hand_over(full, step - LAG + behind, LAG - 1 - behind, STAGES)


@gluon.jit
def _hand_over(full, step, NEWER: gl.constexpr, STAGES: gl.constexpr):
    """Announces the rows gathered for `step`, once all but the NEWER copies after it have landed.

    They were written by ordinary copies and the matrix unit reads by its own path: the fence between belongs to the writer, who has time.
    """
    async_copy.wait_group(NEWER)
    fence_async_shared()
    mbarrier.arrive(full.index(step % STAGES), count=1)


@gluon.jit
def _multiply(
    which: gl.constexpr,  # 0 or 1: the first or second half of the slots
    x_shared,
    w_shared,
    full,
    empty,
    slots_ptr,
    out_ptr,
    T,
    N,
    K,
    tiles_each,
    slot_tiles,
    CHOICES: gl.constexpr,
    SHARED: gl.constexpr,
    STAGES: gl.constexpr,
    GROUP: gl.constexpr,
    PAIRED: gl.constexpr,
):
    """Half a tile after half a tile."""
    PER_TOKEN: gl.constexpr = CHOICES + SHARED
    MINE: gl.constexpr = SLOTS // 2
    HALF: gl.constexpr = ROWS // 2
    sum_layout: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, ROWS, 16])
    wide_layout: gl.constexpr = gl.BlockedLayout([1, 8], [2, 16], [4, 1], [1, 0])
    shared_layout: gl.constexpr = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
    x_halves = x_shared._reinterpret(gl.bfloat16, [STAGES * 2, MINE, DEPTH], shared_layout)
    row_tiles = N // ROWS
    steps = K // DEPTH
    columns = gl.arange(0, HALF, gl.SliceLayout(0, wide_layout))
    lane = which * MINE + gl.arange(0, MINE, gl.SliceLayout(1, wide_layout))
    step = 0
    slot_tile, row_tile = _tile(gl.program_id(0), slot_tiles, row_tiles, GROUP)
    next_slot = _slots_of(slot_tile, lane, slots_ptr, T, tiles_each, CHOICES, SHARED)
    for index in range(gl.program_id(0), slot_tiles * row_tiles, gl.num_programs(0)):
        slot_tile, row_tile = _tile(index, slot_tiles, row_tiles, GROUP)
        slot = next_slot
        after, _row = _tile(gl.minimum(index + gl.num_programs(0), slot_tiles * row_tiles - 1), slot_tiles, row_tiles, GROUP)
        next_slot = _slots_of(after, lane, slots_ptr, T, tiles_each, CHOICES, SHARED)  # arrives while this tile is multiplied
        real = slot < T * PER_TOKEN
        if gl.max(real.to(gl.int32), axis=0) > 0:
            total = gl.zeros([MINE, ROWS], gl.float32, sum_layout)
            for i in range(0, steps):
                stage = step % STAGES
                mbarrier.wait(full.index(stage), (step // STAGES) & 1)
                total = warpgroup_mma(x_halves.index(2 * stage + which), w_shared.index(stage).permute((1, 0)), total, is_async=True)
                total = warpgroup_mma_wait(1, deps=(total,))
                mbarrier.arrive(empty.index((step + STAGES - 1) % STAGES), count=1, pred=i > 0)
                step += 1
            total = warpgroup_mma_wait(0, deps=(total,))
            mbarrier.arrive(empty.index((step + STAGES - 1) % STAGES), count=1)
            left, right = gl.split(total.reshape([MINE, 2, HALF]).permute((0, 2, 1)))
            if PAIRED:
                y = left / (1.0 + gl.exp(-left)) * right
                base = out_ptr + slot[:, None] * (N // 2) + row_tile * HALF + columns[None, :]
                gl.store(base, gl.convert_layout(y.to(gl.bfloat16), wide_layout), mask=real[:, None])
            else:
                base = out_ptr + slot[:, None] * N + row_tile * ROWS + columns[None, :]
                gl.store(base, gl.convert_layout(left.to(gl.bfloat16), wide_layout), mask=real[:, None])
                gl.store(base + HALF, gl.convert_layout(right.to(gl.bfloat16), wide_layout), mask=real[:, None])
        else:
            for _i in range(0, steps):
                stage = step % STAGES
                mbarrier.wait(full.index(stage), (step // STAGES) & 1)
                mbarrier.arrive(empty.index(stage), count=1)
                step += 1
