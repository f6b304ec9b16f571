"""Causal attention of runs of query tokens over the paged cache, for Hopper: the same function as `attention_prefill`, in Gluon.

The Triton language's own schedule leaves the matrix unit idle while a tile's softmax is computed. Here one warp copies (TMA) and two warp
groups compute, each 64 rows, drifting apart freely; within a group, one tile's product with the values runs under the next tile's softmax.
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

ROWS = 128
"""Rows of a program: the query heads that share one key head, for ROWS // group consecutive tokens."""

_BOX = 64
"""Tokens and columns of one bulk copy: 64 bfloat16 are a swizzled row of 128 bytes."""


_LAYOUT = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16)
"""Of a box in shared memory; made once, for to make one takes longer than a launch."""


def can_serve(head_dim: int, block_size: int) -> bool:
    """Whether `launch_prefill_attention` takes caches of this shape."""
    return head_dim == 128 and block_size % _BOX == 0


def launch_prefill_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_tables: Tensor,
    cu_seqlens_q: Tensor,
    context_lens: Tensor,
    scale: float,
    out: Tensor,
    max_query_len: int,
    num_requests: int,
) -> None:
    """`attention_prefill.prefill_attention` for arguments that it has checked.

    H200, 20 query and 4 key heads, TFLOP/s (2 buffers | 3 buffers | `attention_prefill` | cuDNN), bf16 matmul 716 to 799 in the same runs:
      1 × 8192              626 | 604 | 449 | 584         8 × 1024     339 | 339 | 266 | 409
      1 × 32768             587 | 591 | 455 | 581         1 × 1024     194 | 216 | 182 | 197
      2048 behind 30720     543 | 562 | 399 |  -
    """
    num_blocks, block_size, num_kv_heads, head_dim = k_cache.shape
    group = q.shape[1] // num_kv_heads
    row = num_kv_heads * head_dim
    shape, strides, box = [num_blocks * block_size, row], [row, 1], [_BOX, _BOX]
    launch.run(
        _prefill_attention_kernel,
        (num_kv_heads, launch.cdiv(max_query_len, ROWS // group), num_requests),
        q,
        TensorDescriptor(k_cache, shape, strides, box, _LAYOUT),
        TensorDescriptor(v_cache, shape, strides, box, _LAYOUT),
        *(block_tables, cu_seqlens_q, context_lens, out, block_tables.shape[1], scale / math.log(2)),
        num_warps=4,
        NUM_KV_HEADS=num_kv_heads,
        GROUP=group,
        HEAD_DIM=head_dim,
        BLOCK_SIZE=block_size,
        TILE_ROWS=ROWS,
        TILE=128,
        STAGES=2,
        BOX=_BOX,
    )


@gluon.jit(
    do_not_specialize=["max_blocks"],
    do_not_specialize_on_alignment=["block_tables_ptr", "cu_seqlens_q_ptr", "context_lens_ptr"],  # as in attention_prefill
)
def _prefill_attention_kernel(
    q_ptr,  # [T, NUM_KV_HEADS · GROUP, HEAD_DIM]
    k_descriptor,  # [num_blocks · BLOCK_SIZE, NUM_KV_HEADS · HEAD_DIM], boxes of [BOX, BOX]
    v_descriptor,
    block_tables_ptr,  # [R, max_blocks] int32
    cu_seqlens_q_ptr,  # [R + 1] int32
    context_lens_ptr,  # [R] int32
    out_ptr,  # [T, NUM_KV_HEADS · GROUP, HEAD_DIM]
    max_blocks,
    scale_log2,
    NUM_KV_HEADS: gl.constexpr,
    GROUP: gl.constexpr,
    HEAD_DIM: gl.constexpr,
    BLOCK_SIZE: gl.constexpr,
    TILE_ROWS: gl.constexpr,
    TILE: gl.constexpr,
    STAGES: gl.constexpr,
    BOX: gl.constexpr,
):
    kv_head = gl.program_id(0)
    request = gl.program_id(2)
    TOKENS: gl.constexpr = TILE_ROWS // GROUP
    first_query = (gl.num_programs(1) - 1 - gl.program_id(1)) * TOKENS  # the longest first: the short ones fill the gaps at the end
    query_start = gl.load(cu_seqlens_q_ptr + request)
    query_len = gl.load(cu_seqlens_q_ptr + request + 1) - query_start
    context = gl.load(context_lens_ptr + request)
    if (first_query >= query_len) | (context < query_len):  # a context too short would let the groups wait for keys that never come
        return
    cached = context - query_len
    num_full = (cached + first_query + 1) // TILE  # tiles that every row sees whole
    num_tiles = gl.cdiv(gl.minimum(cached + first_query + TOKENS, context), TILE)

    layout: gl.constexpr = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
    q_shared = gl.allocate_shared_memory(gl.bfloat16, [2, TILE_ROWS // 2, HEAD_DIM], layout)
    k_shared = gl.allocate_shared_memory(gl.bfloat16, [STAGES, TILE, HEAD_DIM], layout)
    v_shared = gl.allocate_shared_memory(gl.bfloat16, [STAGES, TILE, HEAD_DIM], layout)
    barriers = gl.allocate_shared_memory(gl.int64, [4 * STAGES, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(2 * STAGES):
        mbarrier.init(barriers.index(i), count=1)  # full: keys, then values; the copy's bytes arrive
        mbarrier.init(barriers.index(2 * STAGES + i), count=2)  # empty: keys, then values; both groups have read
    fence_async_shared()

    table = block_tables_ptr + request.to(gl.int64) * max_blocks
    first_row = (query_start + first_query).to(gl.int64) * NUM_KV_HEADS * GROUP + kv_head * GROUP
    num_queries, first_visible = query_len - first_query, cached + first_query
    gl.warp_specialize(
        [
            (
                _compute,
                (
                    gl.constexpr(0),
                    q_ptr,
                    out_ptr,
                    q_shared,
                    k_shared,
                    v_shared,
                    barriers,
                    first_row,
                    num_queries,
                    first_visible,
                    context,
                    num_full,
                    num_tiles,
                    scale_log2,
                    NUM_KV_HEADS,
                    GROUP,
                    HEAD_DIM,
                    TILE_ROWS,
                    TILE,
                    STAGES,
                ),
            ),
            (
                _compute,
                (
                    gl.constexpr(1),
                    q_ptr,
                    out_ptr,
                    q_shared,
                    k_shared,
                    v_shared,
                    barriers,
                    first_row,
                    num_queries,
                    first_visible,
                    context,
                    num_full,
                    num_tiles,
                    scale_log2,
                    NUM_KV_HEADS,
                    GROUP,
                    HEAD_DIM,
                    TILE_ROWS,
                    TILE,
                    STAGES,
                ),
            ),
            (
                _copy,
                (
                    k_descriptor,
                    v_descriptor,
                    k_shared,
                    v_shared,
                    barriers,
                    table,
                    kv_head,
                    context,
                    num_tiles,
                    HEAD_DIM,
                    BLOCK_SIZE,
                    TILE,
                    STAGES,
                    BOX,
                ),
            ),
        ],
        worker_num_warps=[4, 1],
        worker_num_regs=[240, 24],
    )


@gluon.jit
def _copy(
    k_descriptor,
    v_descriptor,
    k_shared,
    v_shared,
    barriers,
    table,
    kv_head,
    context,
    num_tiles,
    HEAD_DIM: gl.constexpr,
    BLOCK_SIZE: gl.constexpr,
    TILE: gl.constexpr,
    STAGES: gl.constexpr,
    BOX: gl.constexpr,
):
    """Fills the buffers with one tile of keys and one of values after another."""
    for tile in range(num_tiles):
        stage = tile % STAGES
        phase = (tile // STAGES) & 1
        mbarrier.wait(barriers.index(2 * STAGES + stage), phase ^ 1)
        k_full, v_full = barriers.index(stage), barriers.index(STAGES + stage)
        _copy_tile(k_descriptor, k_shared.index(stage), k_full, table, kv_head, context, tile, HEAD_DIM, BLOCK_SIZE, TILE, BOX)
        mbarrier.wait(barriers.index(3 * STAGES + stage), phase ^ 1)
        _copy_tile(v_descriptor, v_shared.index(stage), v_full, table, kv_head, context, tile, HEAD_DIM, BLOCK_SIZE, TILE, BOX)


@gluon.jit
def _copy_tile(
    descriptor,
    shared,
    full,
    table,
    kv_head,
    context,
    tile,
    HEAD_DIM: gl.constexpr,
    BLOCK_SIZE: gl.constexpr,
    TILE: gl.constexpr,
    BOX: gl.constexpr,
):
    """A tile lies in shared memory as columns of 64 elements, [TILE, 64] each, put together from boxes [BOX, 64] of its blocks."""
    BOXES: gl.constexpr = TILE // BOX
    layout: gl.constexpr = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
    boxes = shared._reinterpret(gl.bfloat16, [HEAD_DIM // BOX * BOXES, BOX, BOX], layout)
    mbarrier.expect(full, TILE * HEAD_DIM * 2)
    for box in gl.static_range(BOXES):
        token = gl.minimum(tile * TILE + box * BOX, context - 1)  # beyond the context: any block will do
        row = gl.load(table + token // BLOCK_SIZE) * BLOCK_SIZE + token % BLOCK_SIZE // BOX * BOX
        for column in gl.static_range(HEAD_DIM // BOX):
            tma.async_copy_global_to_shared(descriptor, [row, kv_head * HEAD_DIM + column * BOX], full, boxes.index(column * BOXES + box))


@gluon.jit
def _compute(
    which: gl.constexpr,  # 0 or 1: the upper or lower half of the rows
    q_ptr,
    out_ptr,
    q_shared,
    k_shared,
    v_shared,
    barriers,
    first_row,  # of the program's first token and head
    num_queries,  # tokens from the program's first to the request's last
    first_visible,  # the last token that the program's first token sees
    context,
    num_full,
    num_tiles,
    scale_log2,
    NUM_KV_HEADS: gl.constexpr,
    GROUP: gl.constexpr,
    HEAD_DIM: gl.constexpr,
    TILE_ROWS: gl.constexpr,
    TILE: gl.constexpr,
    STAGES: gl.constexpr,
):
    HALF: gl.constexpr = TILE_ROWS // 2
    score_layout: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, TILE, 16])
    out_layout: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, HEAD_DIM, 16])
    weight_layout: gl.constexpr = gl.DotOperandLayout(0, out_layout, 2)
    wide_layout: gl.constexpr = gl.BlockedLayout([1, 8], [2, 16], [4, 1], [1, 0])

    wide_rows = which * HALF + gl.arange(0, HALF, gl.SliceLayout(1, wide_layout))
    is_row = (wide_rows < TILE_ROWS // GROUP * GROUP) & (wide_rows // GROUP < num_queries)
    row_starts = (first_row + wide_rows // GROUP * (NUM_KV_HEADS * GROUP) + wide_rows % GROUP) * HEAD_DIM
    addresses = row_starts[:, None] + gl.arange(0, HEAD_DIM, gl.SliceLayout(0, wide_layout))[None, :]
    q = q_shared.index(which)
    q.store(gl.load(q_ptr + addresses, mask=is_row[:, None], other=0.0))
    fence_async_shared()

    rows = which * HALF + gl.arange(0, HALF, gl.SliceLayout(1, score_layout))
    last_visible = first_visible + rows // GROUP
    in_tile = gl.arange(0, TILE, gl.SliceLayout(0, score_layout))
    no_scores = gl.zeros([HALF, TILE], gl.float32, score_layout)

    mbarrier.wait(barriers.index(0), 0)
    scores = warpgroup_mma(q, k_shared.index(0).permute((1, 0)), no_scores, use_acc=False, is_async=True)
    scores = warpgroup_mma_wait(0, deps=(scores,))
    mbarrier.arrive(barriers.index(2 * STAGES), count=1)
    if num_full == 0:
        scores = gl.where(in_tile[None, :] <= last_visible[:, None], scores, -float("inf"))
    largest = gl.max(scores, axis=1) * scale_log2
    weights = gl.exp2(scores * scale_log2 - largest[:, None])
    weight_sum = gl.sum(weights, axis=1)
    p = gl.convert_layout(weights.to(gl.bfloat16), weight_layout)
    acc = gl.zeros([HALF, HEAD_DIM], gl.float32, out_layout)
    mbarrier.wait(barriers.index(STAGES), 0)

    for tile in range(1, num_tiles):
        stage = tile % STAGES
        mbarrier.wait(barriers.index(stage), (tile // STAGES) & 1)
        pending_scores = warpgroup_mma(q, k_shared.index(stage).permute((1, 0)), no_scores, use_acc=False, is_async=True)
        before = (tile - 1) % STAGES
        pending_acc = warpgroup_mma(p, v_shared.index(before), acc, is_async=True)
        scores = warpgroup_mma_wait(1, deps=(pending_scores,))
        mbarrier.arrive(barriers.index(2 * STAGES + stage), count=1)
        if tile >= num_full:
            scores = gl.where((tile * TILE + in_tile)[None, :] <= last_visible[:, None], scores, -float("inf"))
        new_largest = gl.maximum(largest, gl.max(scores, axis=1) * scale_log2)
        weights = gl.exp2(scores * scale_log2 - new_largest[:, None])
        keep = gl.exp2(largest - new_largest)
        weight_sum = weight_sum * keep + gl.sum(weights, axis=1)
        largest = new_largest
        # Here, not before its use: this loop keeps ptxas from moving the wait below above the softmax, which would end the overlap.
        mbarrier.wait(barriers.index(STAGES + stage), (tile // STAGES) & 1)
        acc, p = warpgroup_mma_wait(0, deps=(pending_acc, p))
        mbarrier.arrive(barriers.index(3 * STAGES + before), count=1)
        acc = acc * gl.convert_layout(keep, gl.SliceLayout(1, out_layout))[:, None]
        p = gl.convert_layout(weights.to(gl.bfloat16), weight_layout)

    final = (num_tiles - 1) % STAGES
    values = v_shared.index(final)
    if num_tiles * TILE > context:
        # What lies behind the context is whatever the memory held, and 0 · NaN is NaN. Both groups write the same values.
        loaded = values.load(wide_layout)
        tokens = (num_tiles - 1) * TILE + gl.arange(0, TILE, gl.SliceLayout(1, wide_layout))
        values.store(gl.where((tokens < context)[:, None], loaded, gl.zeros_like(loaded)))
        fence_async_shared()
    acc = warpgroup_mma(p, values, acc, is_async=True)
    acc = warpgroup_mma_wait(0, deps=(acc,))
    acc = acc / gl.convert_layout(weight_sum, gl.SliceLayout(1, out_layout))[:, None]
    q.store(acc.to(gl.bfloat16))  # its place is free; from there the rows can be written 16 bytes at a time
    gl.store(out_ptr + addresses, q.load(wide_layout), mask=is_row[:, None])
