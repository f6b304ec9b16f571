"""Attention of one query token per request over the paged cache, split along the context, on the GPU; knows no scheduling."""

from __future__ import annotations

import math
from typing import NamedTuple

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from .. import launch
from ..launch import Argument as Tensor
from .rotary import rotate_pairs


class DecodeWorkspace(NamedTuple):
    """Scratch memory of `decode_attention`, one for all layers: shapes from `decode_workspace_shapes`."""

    partials: Tensor  # float32 [num_requests · kv · max_splits, d, group_pad]: what each split sums up, before normalisation
    maxima_sums: Tensor  # float32 [num_requests · kv · max_splits, 2, group_pad]: each split's largest score (log2) and sum of weights
    arrivals: Tensor  # int32 [num_requests · kv]: how many splits are done. Zero it once; each launch leaves it zero


def decode_workspace_shapes(num_requests: int, num_heads: int, num_kv_heads: int, max_splits: int, head_dim: int = 128) -> DecodeWorkspace:
    """The shape of each of DecodeWorkspace's tensors."""
    rows, group_pad = num_requests * num_kv_heads * max_splits, _group_pad(num_heads // num_kv_heads)
    return DecodeWorkspace((rows, head_dim, group_pad), (rows, 2, group_pad), (num_requests * num_kv_heads,))


def choose_splits(num_requests: int, num_kv_heads: int, max_context: int, programs: int = 528, longest_tiles: int = 32) -> int:
    """How many programs share one request's context: enough for `programs` (4 on each of 132 multiprocessors) in all, and so that none
    walks more than `longest_tiles` tiles of 64 tokens, but never more than there are tiles. All arguments are bounds of a bucket."""
    tiles = max(1, math.ceil(max_context / 64))
    wanted = max(math.ceil(programs / (num_requests * num_kv_heads)), math.ceil(tiles / longest_tiles))
    return min(wanted, tiles, MAX_SPLITS)


MAX_SPLITS = 128
"""More partial results than this take the last arriver longer to add up than they save."""


def decode_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_tables: Tensor,
    context_lens: Tensor,
    scale: float,
    out: Tensor,
    workspace: DecodeWorkspace,
    num_splits: int,
    *,
    pdl: bool = True,
) -> None:
    """out[r] = softmax(scale · q[r] Kᵀ) V over the first context_lens[r] tokens of request r's blocks.

    q [R, heads, d] bfloat16; caches [num_blocks, block_size, kv, d]; block_tables [R, max_blocks] int32; context_lens [R] int32, 0 for
    padding, which gives zeros; out [R, heads · d]; query head h reads key head h // (heads / kv). Each request's tiles of 64 tokens are
    dealt in runs to at most num_splits programs; the last to finish adds their results in the order of the tokens, so that the result
    depends on the request's context and num_splits alone. block_tables and context_lens may be read before the preceding kernel has ended
    (pdl): they must come from an earlier one.
    """
    num_heads = q.shape[1]
    _launch(q, q, context_lens, k_cache, v_cache, block_tables, context_lens, scale, out, workspace, num_splits, num_heads, False, pdl)


def rotary_decode_attention(
    qkv: Tensor,
    cos_sin: Tensor,
    positions: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_tables: Tensor,
    context_lens: Tensor,
    scale: float,
    out: Tensor,
    workspace: DecodeWorkspace,
    num_splits: int,
    *,
    pdl: bool = True,
) -> None:
    """`rotary_kv_write`, then `decode_attention`, in one kernel: the token's slot is the last of its context.

    qkv [R, (heads + 2·kv) · d], columns q‖k‖v; cos_sin float32 [P, d]; positions [R] int32; the rest as in `decode_attention`.
    """
    num_heads = qkv.shape[1] // k_cache.shape[3] - 2 * k_cache.shape[2]
    assert positions.shape[0] == qkv.shape[0] and cos_sin.shape[1] == k_cache.shape[3]
    _launch(qkv, cos_sin, positions, k_cache, v_cache, block_tables, context_lens, scale, out, workspace, num_splits, num_heads, True, pdl)


def _launch(
    q: Tensor,
    cos_sin: Tensor,
    positions: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_tables: Tensor,
    context_lens: Tensor,
    scale: float,
    out: Tensor,
    workspace: DecodeWorkspace,
    num_splits: int,
    num_heads: int,
    rotary: bool,
    pdl: bool,
) -> None:
    num_requests = q.shape[0]
    _, block_size, num_kv_heads, head_dim = k_cache.shape
    group = num_heads // num_kv_heads
    tile = min(64, block_size)
    assert tuple(v_cache.shape) == tuple(k_cache.shape) and tuple(out.shape) == (num_requests, num_heads * head_dim)
    assert context_lens.shape[0] >= num_requests and block_tables.shape[0] >= num_requests
    assert num_heads == group * num_kv_heads and block_size % tile == 0 and tile >= 16
    assert workspace.partials.shape[0] >= num_requests * num_kv_heads * num_splits and workspace.partials.shape[2] == _group_pad(group)
    launch.run(
        _decode_attention_kernel,
        (num_kv_heads, num_splits, num_requests),
        *(q, cos_sin, positions, k_cache, v_cache, block_tables, context_lens, out, *workspace),
        *(block_tables.shape[1], num_splits, scale / math.log(2)),
        num_warps=4,
        num_stages=3,
        pdl=pdl,
        NUM_KV_HEADS=num_kv_heads,
        GROUP=group,
        GROUP_PAD=_group_pad(group),
        HEAD_DIM=head_dim,
        BLOCK_SIZE=block_size,
        TILE=tile,
        ROTARY=rotary,
    )


def _group_pad(group: int) -> int:
    """The queries' side of a matrix instruction is at least 8 wide."""
    return max(8, triton.next_power_of_2(group))


@triton.jit(do_not_specialize=["num_splits"])
def _decode_attention_kernel(
    q_ptr,  # [R, heads, HEAD_DIM]; if ROTARY [R, heads + 2 · NUM_KV_HEADS, HEAD_DIM]
    cos_sin_ptr,  # [P, HEAD_DIM] float32; read if ROTARY
    positions_ptr,  # [R] int32; read if ROTARY
    k_cache_ptr,  # [num_blocks, BLOCK_SIZE, NUM_KV_HEADS, HEAD_DIM]; written if ROTARY
    v_cache_ptr,
    block_tables_ptr,  # [R, max_blocks] int32
    context_lens_ptr,  # [R] int32
    out_ptr,  # [R, heads, HEAD_DIM]
    partials_ptr,  # [R, NUM_KV_HEADS, num_splits, HEAD_DIM, GROUP_PAD] float32
    maxima_sums_ptr,  # [R, NUM_KV_HEADS, num_splits, 2, GROUP_PAD] float32
    arrivals_ptr,  # [R, NUM_KV_HEADS] int32
    max_blocks,
    num_splits,
    scale_log2,
    NUM_KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    GROUP_PAD: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    TILE: tl.constexpr,
    ROTARY: tl.constexpr,
    PDL: tl.constexpr,
):
    kv_head = tl.program_id(0)
    split = tl.program_id(1)
    request = tl.program_id(2)
    context = tl.load(context_lens_ptr + request)
    num_tiles = tl.cdiv(context, TILE)
    tiles_per_split = tl.maximum(tl.cdiv(num_tiles, num_splits), 1)
    num_active = tl.maximum(tl.cdiv(num_tiles, tiles_per_split), 1)
    if split >= num_active:
        return
    TOKEN: tl.constexpr = NUM_KV_HEADS * HEAD_DIM
    first_tile = split * tiles_per_split
    stop_tile = tl.minimum(first_tile + tiles_per_split, num_tiles)
    table = block_tables_ptr + request.to(tl.int64) * max_blocks
    in_tile = tl.arange(0, TILE)
    block = tl.load(table + first_tile * TILE // BLOCK_SIZE).to(tl.int64)
    if PDL:
        # The first tile can be on its way into the L2 cache before the queries exist.
        lines = tl.arange(0, TILE * 2)
        ahead = (block * BLOCK_SIZE + first_tile * TILE % BLOCK_SIZE + lines // 2) * TOKEN + kv_head * HEAD_DIM + lines % 2 * 64
        _prefetch(k_cache_ptr + ahead)
        _prefetch(v_cache_ptr + ahead)
        gdc_wait()
        gdc_launch_dependents()

    columns = tl.arange(0, HEAD_DIM)
    in_group = tl.arange(0, GROUP_PAD)
    is_head = in_group < GROUP
    ROW_HEADS: tl.constexpr = NUM_KV_HEADS * GROUP + 2 * NUM_KV_HEADS * ROTARY
    q_row = q_ptr + request.to(tl.int64) * ROW_HEADS * HEAD_DIM
    q_heads = (kv_head * GROUP + in_group)[:, None] * HEAD_DIM + columns[None, :]
    q = tl.load(q_row + q_heads, mask=is_head[:, None], other=0.0)
    if ROTARY:
        angles = cos_sin_ptr + tl.load(positions_ptr + request).to(tl.int64) * HEAD_DIM + tl.arange(0, HEAD_DIM // 2)
        cos, sin = tl.load(angles), tl.load(angles + HEAD_DIM // 2)
        q = rotate_pairs(q.to(tl.float32), cos, sin).to(k_cache_ptr.dtype.element_ty)
        if (split == num_active - 1) & (context > 0):  # the one program of this key head that reads the new token's slot
            last = context - 1
            slot = tl.load(table + last // BLOCK_SIZE).to(tl.int64) * BLOCK_SIZE + last % BLOCK_SIZE
            k_row = q_row + (NUM_KV_HEADS * GROUP + kv_head) * HEAD_DIM + columns[None, :]
            cache_row = slot * TOKEN + kv_head * HEAD_DIM + columns[None, :]
            k_new = rotate_pairs(tl.load(k_row).to(tl.float32), cos, sin)
            tl.store(k_cache_ptr + cache_row, k_new.to(k_cache_ptr.dtype.element_ty))
            tl.store(v_cache_ptr + cache_row, tl.load(k_row + TOKEN))
        tl.debug_barrier()  # the loads below see what the program's other threads wrote
    q_columns = tl.trans(q)  # keys are the left operand: 8 queries pad to 8 columns, but would pad to 16 rows

    largest = tl.full([GROUP_PAD], -float("inf"), tl.float32)
    weight_sum = tl.zeros([GROUP_PAD], tl.float32)
    acc = tl.zeros([HEAD_DIM, GROUP_PAD], tl.float32)
    within_tile = in_tile[:, None] * TOKEN + kv_head * HEAD_DIM + columns[None, :]
    for tile in range(first_tile, stop_tile):
        start = (block * BLOCK_SIZE + tile * TILE % BLOCK_SIZE) * TOKEN
        # One tile ahead: else each tile would wait for its block's number before its loads can start.
        block = tl.load(table + tl.minimum(tile + 1, stop_tile - 1) * TILE // BLOCK_SIZE).to(tl.int64)
        is_token = tile * TILE + in_tile < context
        k = tl.load(k_cache_ptr + start + within_tile, mask=is_token[:, None], other=0.0)
        v = tl.load(v_cache_ptr + start + within_tile, mask=is_token[:, None], other=0.0)
        scores = tl.where(is_token[:, None], tl.dot(k, q_columns) * scale_log2, -float("inf"))  # [TILE, GROUP_PAD]
        new_largest = tl.maximum(largest, tl.max(scores, axis=0))
        weights = tl.exp2(scores - new_largest[None, :])
        keep = tl.exp2(largest - new_largest)
        weight_sum = weight_sum * keep + tl.sum(weights, axis=0)
        acc = tl.dot(tl.trans(v), weights.to(v.dtype), acc * keep[None, :])
        largest = new_largest

    row = request * NUM_KV_HEADS + kv_head
    out = out_ptr + (row.to(tl.int64) * GROUP + in_group)[:, None] * HEAD_DIM + columns[None, :]
    if num_active == 1:
        acc = acc / tl.where(weight_sum > 0.0, weight_sum, 1.0)[None, :]
        tl.store(out, tl.trans(acc).to(out_ptr.dtype.element_ty), mask=is_head[:, None])
    else:
        within_partial = columns[:, None] * GROUP_PAD + in_group[None, :]
        partial = row.to(tl.int64) * num_splits + split
        tl.store(partials_ptr + partial * HEAD_DIM * GROUP_PAD + within_partial, acc)
        tl.store(maxima_sums_ptr + partial * 2 * GROUP_PAD + in_group, largest)
        tl.store(maxima_sums_ptr + partial * 2 * GROUP_PAD + GROUP_PAD + in_group, weight_sum)
        tl.debug_barrier()  # every thread's part is written before one of them says so
        if tl.atomic_add(arrivals_ptr + row, 1, sem="acq_rel", scope="gpu") == num_active - 1:
            tl.store(arrivals_ptr + row, 0)
            first = row.to(tl.int64) * num_splits
            acc = _merge(partials_ptr, maxima_sums_ptr, first, num_active, HEAD_DIM, GROUP_PAD)
            tl.store(out, tl.trans(acc).to(out_ptr.dtype.element_ty), mask=is_head[:, None])


@triton.jit
def _merge(partials_ptr, maxima_sums_ptr, first, num_active, HEAD_DIM: tl.constexpr, GROUP_PAD: tl.constexpr):
    """Σ of the splits' partial results, brought to one maximum and normalised, in the order of the splits. → [HEAD_DIM, GROUP_PAD]"""
    STEP: tl.constexpr = 32 // GROUP_PAD  # 32 values a thread in flight; 64 took 214 registers
    in_group = tl.arange(0, GROUP_PAD)[None, :]
    within_partial = (tl.arange(0, HEAD_DIM)[:, None] * GROUP_PAD + in_group)[None, :, :]
    largest = tl.full([GROUP_PAD], -float("inf"), tl.float32)
    weight_sum = tl.zeros([GROUP_PAD], tl.float32)
    acc = tl.zeros([HEAD_DIM, GROUP_PAD], tl.float32)
    for start in range(0, num_active, STEP):
        splits = start + tl.arange(0, STEP)
        is_split = splits < num_active
        maxima_sums = maxima_sums_ptr + (first + splits)[:, None] * 2 * GROUP_PAD + in_group
        maxima = tl.load(maxima_sums, mask=is_split[:, None], other=-float("inf"), cache_modifier=".cg")
        sums = tl.load(maxima_sums + GROUP_PAD, mask=is_split[:, None], other=0.0, cache_modifier=".cg")
        addresses = partials_ptr + (first + splits)[:, None, None] * HEAD_DIM * GROUP_PAD + within_partial
        partials = tl.load(addresses, mask=is_split[:, None, None], other=0.0, cache_modifier=".cg")
        new_largest = tl.maximum(largest, tl.max(maxima, axis=0))
        weights = tl.exp2(maxima - new_largest[None, :])
        keep = tl.exp2(largest - new_largest)
        weight_sum = weight_sum * keep + tl.sum(sums * weights, axis=0)
        acc = acc * keep[None, :] + tl.sum(partials * weights[:, None, :], axis=0)
        largest = new_largest
    return acc / weight_sum[None, :]


@triton.jit
def _prefetch(addresses):
    tl.inline_asm_elementwise("prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [addresses], dtype=tl.int32, is_pure=False, pack=1)
