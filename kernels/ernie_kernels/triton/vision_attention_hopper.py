"""Attention within frames for Hopper, as `vision_attention` promises it, in Gluon, for heads of 64 columns and a rest of up to 16.

One warp copies keys and values (TMA) and two groups of four warps compute, each 64 queries, drifting apart freely; within a group, one
tile's product with the values runs under the next tile's softmax, as in `attention_prefill_hopper`. The rest is a product of its own.
"""

from __future__ import annotations

import math

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from .. import launch
from ..launch import Argument as Tensor

_FIRST, _REST = 64, 16
"""Columns of the two products."""
_ROWS = 64
"""Queries of a group of four warps."""
_TILE = 128
"""Keys of a tile."""
_STAGES = 3
"""Tiles under way."""
_LAYOUTS = {columns: gl.NVMMASharedLayout(2 * columns, element_bitwidth=16, rank=3) for columns in (_FIRST, _REST)}
"""Of the boxes of so many columns in shared memory; made once, for to make one takes longer than a launch."""


def can_serve(head_dim: int, width: int) -> bool:
    """Whether `launch_vision_attention` takes heads of this size, `width` columns in all."""
    return _FIRST < head_dim <= _FIRST + _REST and width % 8 == 0  # bulk copies want rows of a multiple of 16 bytes


def launch_vision_attention(qkv: Tensor, scale: float, out: Tensor, patches: int, head_dim: int) -> None:
    """`vision_attention.vision_attention` behind its rotation, for arguments that it has checked."""
    rows, width = out.shape
    frames = rows // patches
    shape, strides = [frames, patches, 3 * width], [patches * 3 * width, 3 * width, 1]
    first, rest = (TensorDescriptor(qkv, shape, strides, [1, _TILE, columns], layout) for columns, layout in _LAYOUTS.items())
    launch.run(
        _vision_attention_kernel,
        (launch.cdiv(patches, 2 * _ROWS), width // head_dim, frames),
        *(qkv, first, rest, out, patches, scale / math.log(2)),
        num_warps=4,
        HEADS=width // head_dim,
        HEAD_DIM=head_dim,
        FIRST=_FIRST,
        REST=_REST,
        ROWS=_ROWS,
        TILE=_TILE,
        STAGES=_STAGES,
    )


@gluon.jit
def _vision_attention_kernel(
    qkv_ptr,  # [T · S, 3 · HEADS · HEAD_DIM], q and k turned
    first_descriptor,  # of the same as [T, S, 3 · HEADS · HEAD_DIM], boxes of [1, TILE, FIRST] and of [1, TILE, REST]
    rest_descriptor,
    out_ptr,  # [T · S, HEADS · HEAD_DIM]
    patches,
    scale_log2,
    HEADS: gl.constexpr,
    HEAD_DIM: gl.constexpr,
    FIRST: gl.constexpr,
    REST: gl.constexpr,
    ROWS: gl.constexpr,
    TILE: gl.constexpr,
    STAGES: gl.constexpr,
):
    head = gl.program_id(1)
    frame = gl.program_id(2)
    first_query = gl.program_id(0) * 2 * ROWS
    wide: gl.constexpr = gl.NVMMASharedLayout(2 * FIRST, element_bitwidth=16, rank=2)
    narrow: gl.constexpr = gl.NVMMASharedLayout(2 * REST, element_bitwidth=16, rank=2)
    q_first = gl.allocate_shared_memory(gl.bfloat16, [2, ROWS, FIRST], wide)
    q_rest = gl.allocate_shared_memory(gl.bfloat16, [2, ROWS, REST], narrow)
    k_first = gl.allocate_shared_memory(gl.bfloat16, [STAGES, TILE, FIRST], wide)
    k_rest = gl.allocate_shared_memory(gl.bfloat16, [STAGES, TILE, REST], narrow)
    v_first = gl.allocate_shared_memory(gl.bfloat16, [STAGES, TILE, FIRST], wide)
    v_rest = gl.allocate_shared_memory(gl.bfloat16, [STAGES, TILE, REST], narrow)
    barriers = gl.allocate_shared_memory(gl.int64, [4 * STAGES, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(2 * STAGES):
        mbarrier.init(barriers.index(i), count=1)  # full: keys, then values; the copy's bytes arrive
        mbarrier.init(barriers.index(2 * STAGES + i), count=2)  # empty: keys, then values; every group has read
    fence_async_shared()

    shared = (q_first, q_rest, k_first, k_rest, v_first, v_rest, barriers)
    given = (qkv_ptr, out_ptr, shared, frame, head, first_query, patches, scale_log2)
    gl.warp_specialize(
        [
            (_compute, (gl.constexpr(0), given, HEADS, HEAD_DIM, FIRST, REST, ROWS, TILE, STAGES)),
            (_compute, (gl.constexpr(1), given, HEADS, HEAD_DIM, FIRST, REST, ROWS, TILE, STAGES)),
            (_copy, (first_descriptor, rest_descriptor, shared, frame, head, patches, HEADS, HEAD_DIM, FIRST, REST, TILE, STAGES)),
        ],
        worker_num_warps=[4, 1],
        worker_num_regs=[240, 24],
    )


@gluon.jit
def _copy(
    first_descriptor,
    rest_descriptor,
    shared,
    frame,
    head,
    patches,
    HEADS: gl.constexpr,
    HEAD_DIM: gl.constexpr,
    FIRST: gl.constexpr,
    REST: gl.constexpr,
    TILE: gl.constexpr,
    STAGES: gl.constexpr,
):
    """Fills the buffers with one tile of keys and one of values after another; behind the frame's last patch, with zeros."""
    _, _, k_first, k_rest, v_first, v_rest, barriers = shared
    wide: gl.constexpr = gl.NVMMASharedLayout(2 * FIRST, element_bitwidth=16, rank=3)
    narrow: gl.constexpr = gl.NVMMASharedLayout(2 * REST, element_bitwidth=16, rank=3)
    column = (HEADS + head) * HEAD_DIM
    for tile in range(gl.cdiv(patches, TILE)):
        stage = tile % STAGES
        phase = (tile // STAGES) & 1
        full = barriers.index(stage)
        mbarrier.wait(barriers.index(2 * STAGES + stage), phase ^ 1)
        mbarrier.expect(full, TILE * (FIRST + REST) * 2)
        at = [frame, tile * TILE, column]
        tma.async_copy_global_to_shared(first_descriptor, at, full, k_first.index(stage)._reinterpret(gl.bfloat16, [1, TILE, FIRST], wide))
        at = [frame, tile * TILE, column + FIRST]
        tma.async_copy_global_to_shared(rest_descriptor, at, full, k_rest.index(stage)._reinterpret(gl.bfloat16, [1, TILE, REST], narrow))
        full = barriers.index(STAGES + stage)
        mbarrier.wait(barriers.index(3 * STAGES + stage), phase ^ 1)
        mbarrier.expect(full, TILE * (FIRST + REST) * 2)
        at = [frame, tile * TILE, column + HEADS * HEAD_DIM]
        tma.async_copy_global_to_shared(first_descriptor, at, full, v_first.index(stage)._reinterpret(gl.bfloat16, [1, TILE, FIRST], wide))
        at = [frame, tile * TILE, column + HEADS * HEAD_DIM + FIRST]
        tma.async_copy_global_to_shared(rest_descriptor, at, full, v_rest.index(stage)._reinterpret(gl.bfloat16, [1, TILE, REST], narrow))


@gluon.jit
def _places(base, first_row, row_size, patches, HEAD_DIM: gl.constexpr, FROM: gl.constexpr, ROWS: gl.constexpr, COLUMNS: gl.constexpr):
    """Addresses of columns FROM to FROM + COLUMNS of a group's queries, 16 bytes a thread, and which of them exist."""
    layout: gl.constexpr = gl.BlockedLayout([1, 8], [256 // COLUMNS, COLUMNS // 8], [4, 1], [1, 0])
    rows = first_row + gl.arange(0, ROWS, gl.SliceLayout(1, layout))
    columns = FROM + gl.arange(0, COLUMNS, gl.SliceLayout(0, layout))
    return base + rows[:, None] * row_size + columns[None, :], (rows < patches)[:, None] & (columns < HEAD_DIM)[None, :]


@gluon.jit
def _compute(
    which: gl.constexpr,  # of the groups
    given,
    HEADS: gl.constexpr,
    HEAD_DIM: gl.constexpr,
    FIRST: gl.constexpr,
    REST: gl.constexpr,
    ROWS: gl.constexpr,
    TILE: gl.constexpr,
    STAGES: gl.constexpr,
):
    qkv_ptr, out_ptr, shared, frame, head, first_query, patches, scale_log2 = given
    q_first, q_rest, k_first, k_rest, v_first, v_rest, barriers = shared
    score_layout: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, TILE, 16])
    first_layout: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, FIRST, 16])
    rest_layout: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, REST, 16])

    row = first_query + which * ROWS
    base = qkv_ptr + frame.to(gl.int64) * patches * 3 * HEADS * HEAD_DIM + head * HEAD_DIM
    q1, q2 = q_first.index(which), q_rest.index(which)
    at, inside = _places(base, row, 3 * HEADS * HEAD_DIM, patches, HEAD_DIM, 0, ROWS, FIRST)
    q1.store(gl.load(at, mask=inside, other=0.0))
    at, inside = _places(base, row, 3 * HEADS * HEAD_DIM, patches, HEAD_DIM, FIRST, ROWS, REST)
    q2.store(gl.load(at, mask=inside, other=0.0))
    fence_async_shared()

    num_tiles, num_full = gl.cdiv(patches, TILE), patches // TILE
    keys = gl.arange(0, TILE, gl.SliceLayout(0, score_layout))
    no_scores = gl.zeros([ROWS, TILE], gl.float32, score_layout)

    mbarrier.wait(barriers.index(0), 0)
    scores = warpgroup_mma(q1, k_first.index(0).permute((1, 0)), no_scores, use_acc=False, is_async=True)
    scores = warpgroup_mma(q2, k_rest.index(0).permute((1, 0)), scores, is_async=True)
    scores = warpgroup_mma_wait(0, deps=(scores,))
    mbarrier.arrive(barriers.index(2 * STAGES), count=1)
    if num_full == 0:
        scores = gl.where(keys[None, :] < patches, scores, -float("inf"))
    largest = gl.max(scores, axis=1) * scale_log2
    weights = gl.exp2(scores * scale_log2 - largest[:, None])
    weight_sum = gl.sum(weights, axis=1)
    p1 = gl.convert_layout(weights.to(gl.bfloat16), gl.DotOperandLayout(0, first_layout, 2))
    p2 = gl.convert_layout(weights.to(gl.bfloat16), gl.DotOperandLayout(0, rest_layout, 2))
    acc1 = gl.zeros([ROWS, FIRST], gl.float32, first_layout)
    acc2 = gl.zeros([ROWS, REST], gl.float32, rest_layout)
    mbarrier.wait(barriers.index(STAGES), 0)

    for tile in range(1, num_tiles):
        stage = tile % STAGES
        before = (tile - 1) % STAGES
        mbarrier.wait(barriers.index(stage), (tile // STAGES) & 1)
        pending_scores = warpgroup_mma(q1, k_first.index(stage).permute((1, 0)), no_scores, use_acc=False, is_async=True)
        pending_scores = warpgroup_mma(q2, k_rest.index(stage).permute((1, 0)), pending_scores, is_async=True)
        pending1 = warpgroup_mma(p1, v_first.index(before), acc1, is_async=True)
        pending2 = warpgroup_mma(p2, v_rest.index(before), acc2, is_async=True)
        scores = warpgroup_mma_wait(2, deps=(pending_scores,))
        mbarrier.arrive(barriers.index(2 * STAGES + stage), count=1)
        if tile >= num_full:
            scores = gl.where((tile * TILE + keys)[None, :] < patches, scores, -float("inf"))
        new_largest = gl.maximum(largest, gl.max(scores, axis=1) * scale_log2)
        weights = gl.exp2(scores * scale_log2 - new_largest[:, None])
        keep = gl.exp2(largest - new_largest)
        weight_sum = weight_sum * keep + gl.sum(weights, axis=1)
        largest = new_largest
        # Here, not before its use: this loop keeps ptxas from moving the wait below above the softmax, which would end the overlap.
        mbarrier.wait(barriers.index(STAGES + stage), (tile // STAGES) & 1)
        acc1, acc2, p1, p2 = warpgroup_mma_wait(0, deps=(pending1, pending2, p1, p2))
        mbarrier.arrive(barriers.index(3 * STAGES + before), count=1)
        acc1 = acc1 * gl.convert_layout(keep, gl.SliceLayout(1, first_layout))[:, None]
        acc2 = acc2 * gl.convert_layout(keep, gl.SliceLayout(1, rest_layout))[:, None]
        p1 = gl.convert_layout(weights.to(gl.bfloat16), gl.DotOperandLayout(0, first_layout, 2))
        p2 = gl.convert_layout(weights.to(gl.bfloat16), gl.DotOperandLayout(0, rest_layout, 2))

    final = (num_tiles - 1) % STAGES
    pending1 = warpgroup_mma(p1, v_first.index(final), acc1, is_async=True)
    pending2 = warpgroup_mma(p2, v_rest.index(final), acc2, is_async=True)
    acc1, acc2 = warpgroup_mma_wait(0, deps=(pending1, pending2))
    # The queries' places are free; from there the rows can be written 16 bytes at a time.
    q1.store((acc1 / gl.convert_layout(weight_sum, gl.SliceLayout(1, first_layout))[:, None]).to(gl.bfloat16))
    q2.store((acc2 / gl.convert_layout(weight_sum, gl.SliceLayout(1, rest_layout))[:, None]).to(gl.bfloat16))
    base = out_ptr + frame.to(gl.int64) * patches * HEADS * HEAD_DIM + head * HEAD_DIM
    at, inside = _places(base, row, HEADS * HEAD_DIM, patches, HEAD_DIM, 0, ROWS, FIRST)
    gl.store(at, q1.load(gl.BlockedLayout([1, 8], [256 // FIRST, FIRST // 8], [4, 1], [1, 0])), mask=inside)
    at, inside = _places(base, row, HEADS * HEAD_DIM, patches, HEAD_DIM, FIRST, ROWS, REST)
    gl.store(at, q2.load(gl.BlockedLayout([1, 8], [256 // REST, REST // 8], [4, 1], [1, 0])), mask=inside)
