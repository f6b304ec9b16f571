"""Causal attention of runs of query tokens over the paged cache; knows no scheduling. Hopper has a kernel of its own for it."""

from __future__ import annotations

import math

import triton
import triton.language as tl

from .. import launch
from ..launch import Argument as Tensor
from . import attention_prefill_hopper as hopper

ROWS = 128
"""Rows of a program's tile: the query heads that share one key head, for ROWS // group consecutive tokens."""


def prefill_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_tables: Tensor,
    cu_seqlens_q: Tensor,
    context_lens: Tensor,
    scale: float,
    out: Tensor,
    *,
    max_query_len: int,
    num_requests: int,
) -> None:
    """out[t] = softmax(scale · q[t] Kᵀ) V over the tokens of t's request up to t itself; a request's queries are the last of its context.

    q [T, heads, d] bfloat16; caches [num_blocks, block_size, kv, d]; block_tables [R, max_blocks] int32; cu_seqlens_q [R + 1] int32;
    context_lens [R] int32, this step's tokens included; out [T, heads · d]; query head h reads key head h // (heads / kv). max_query_len
    and num_requests (≤ R) bound the grid. Tiles of keys start at token 0, and a row's result depends on its own query and context alone:
    chunked, batched or whole, it is the same to the last bit.
    """
    num_heads, head_dim = q.shape[1:]
    _, block_size, num_kv_heads, _ = k_cache.shape
    group = num_heads // num_kv_heads
    tile = min(32, block_size)  # on sm_80 193 registers; with tiles of 64 it spills
    assert tuple(v_cache.shape) == tuple(k_cache.shape) and tuple(out.shape) == (q.shape[0], num_heads * head_dim)
    assert block_tables.shape[0] >= num_requests and context_lens.shape[0] >= num_requests and cu_seqlens_q.shape[0] > num_requests
    assert num_heads == group * num_kv_heads and block_size % tile == 0 and tile >= 16 and group <= ROWS
    if launch.runs_on_hopper(_prefill_attention_kernel) and hopper.can_serve(head_dim, block_size):
        arguments = (q, k_cache, v_cache, block_tables, cu_seqlens_q, context_lens, scale, out, max_query_len, num_requests)
        hopper.launch_prefill_attention(*arguments)
        return
    launch.run(
        _prefill_attention_kernel,
        (num_kv_heads, launch.cdiv(max_query_len, ROWS // group), num_requests),
        *(q, k_cache, v_cache, block_tables, cu_seqlens_q, context_lens, out, block_tables.shape[1], scale / math.log(2)),
        num_warps=8,
        num_stages=3,
        NUM_KV_HEADS=num_kv_heads,
        GROUP=group,
        HEAD_DIM=head_dim,
        BLOCK_SIZE=block_size,
        TILE_ROWS=ROWS,
        TILE=tile,
    )


@triton.jit(
    do_not_specialize=["max_blocks"],
    do_not_specialize_on_alignment=["block_tables_ptr", "cu_seqlens_q_ptr", "context_lens_ptr"],  # parts of a step's start anywhere
)
def _prefill_attention_kernel(
    q_ptr,  # [T, NUM_KV_HEADS · GROUP, HEAD_DIM]
    k_cache_ptr,  # [num_blocks, BLOCK_SIZE, NUM_KV_HEADS, HEAD_DIM]
    v_cache_ptr,
    block_tables_ptr,  # [R, max_blocks] int32
    cu_seqlens_q_ptr,  # [R + 1] int32
    context_lens_ptr,  # [R] int32
    out_ptr,  # [T, NUM_KV_HEADS · GROUP, HEAD_DIM]
    max_blocks,
    scale_log2,
    NUM_KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE: tl.constexpr,
):
    kv_head = tl.program_id(0)
    request = tl.program_id(2)
    TOKENS: tl.constexpr = TILE_ROWS // GROUP
    first_query = (tl.num_programs(1) - 1 - tl.program_id(1)) * TOKENS  # the longest first: the short ones fill the gaps at the end
    query_start = tl.load(cu_seqlens_q_ptr + request)
    query_len = tl.load(cu_seqlens_q_ptr + request + 1) - query_start
    if first_query >= query_len:
        return
    context = tl.load(context_lens_ptr + request)
    rows = tl.arange(0, TILE_ROWS)
    queries = first_query + rows // GROUP
    is_row = (rows < TOKENS * GROUP) & (queries < query_len)
    columns = tl.arange(0, HEAD_DIM)
    row_starts = ((query_start + queries).to(tl.int64) * NUM_KV_HEADS * GROUP + kv_head * GROUP + rows % GROUP) * HEAD_DIM
    q = tl.load(q_ptr + row_starts[:, None] + columns[None, :], mask=is_row[:, None], other=0.0)

    cached = context - query_len
    last_visible = cached + queries
    num_full = (cached + first_query + 1) // TILE  # tiles that every row sees whole
    num_tiles = tl.cdiv(tl.minimum(cached + first_query + TOKENS, context), TILE)
    largest = tl.full([TILE_ROWS], -float("inf"), tl.float32)
    weight_sum = tl.zeros([TILE_ROWS], tl.float32)
    acc = tl.zeros([TILE_ROWS, HEAD_DIM], tl.float32)
    table = block_tables_ptr + request.to(tl.int64) * max_blocks
    keys = k_cache_ptr + kv_head * HEAD_DIM
    values = v_cache_ptr + kv_head * HEAD_DIM
    TOKEN: tl.constexpr = NUM_KV_HEADS * HEAD_DIM
    in_tile = tl.arange(0, TILE)
    within_tile = in_tile[:, None] * TOKEN + columns[None, :]
    block = tl.load(table).to(tl.int64)
    for tile in range(0, num_full):
        start = (block * BLOCK_SIZE + tile * TILE % BLOCK_SIZE) * TOKEN
        block = tl.load(table + tl.minimum(tile + 1, num_tiles - 1) * TILE // BLOCK_SIZE).to(tl.int64)
        k = tl.load(keys + start + within_tile)
        v = tl.load(values + start + within_tile)
        scores = tl.dot(q, tl.trans(k)) * scale_log2
        largest, weight_sum, acc = _absorb(scores, v, largest, weight_sum, acc)
    for tile in range(num_full, num_tiles):
        start = (block * BLOCK_SIZE + tile * TILE % BLOCK_SIZE) * TOKEN
        block = tl.load(table + tl.minimum(tile + 1, num_tiles - 1) * TILE // BLOCK_SIZE).to(tl.int64)
        tokens = tile * TILE + in_tile
        k = tl.load(keys + start + within_tile, mask=(tokens < context)[:, None], other=0.0)
        v = tl.load(values + start + within_tile, mask=(tokens < context)[:, None], other=0.0)
        scores = tl.where(tokens[None, :] <= last_visible[:, None], tl.dot(q, tl.trans(k)) * scale_log2, -float("inf"))
        largest, weight_sum, acc = _absorb(scores, v, largest, weight_sum, acc)
    out = acc / weight_sum[:, None]
    tl.store(out_ptr + row_starts[:, None] + columns[None, :], out.to(out_ptr.dtype.element_ty), mask=is_row[:, None])


@triton.jit
def _absorb(scores, v, largest, weight_sum, acc):
    """One step of the running softmax: scores [rows, tokens] in log2, v [tokens, d] → the new maximum, sum and weighted values."""
    new_largest = tl.maximum(largest, tl.max(scores, axis=1))
    weights = tl.exp2(scores - new_largest[:, None])
    keep = tl.exp2(largest - new_largest)
    acc = tl.dot(weights.to(v.dtype), v, acc * keep[:, None])
    return new_largest, weight_sum * keep + tl.sum(weights, axis=1), acc
