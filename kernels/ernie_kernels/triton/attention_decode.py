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

    partials: Tensor  # float32 [num_requests · kv · max_splits, d, 8]: each split's own attention
    log_sums: Tensor  # float32 [num_requests · kv · max_splits, 8]: log2 of each split's Σ exp(scores)
    arrivals: Tensor  # int32 [num_requests · kv]: how many splits are done. Zero it once; each launch leaves it zero


def decode_workspace_shapes(num_requests: int, num_kv_heads: int, max_splits: int, head_dim: int = 128) -> DecodeWorkspace:
    """The shape of each of DecodeWorkspace's tensors."""
    rows = num_requests * num_kv_heads * max_splits
    return DecodeWorkspace((rows, head_dim, _GROUP_PAD), (rows, _GROUP_PAD), (num_requests * num_kv_heads,))


class DecodePlan(NamedTuple):
    """How the work is cut. Results depend on it to the last bit: for results that do not depend on the batch, use one for all batches."""

    num_splits: int  # programs that share one request's context, at most
    tile: int  # tokens that a program takes at a time: 64 or 128
    num_stages: int = 2  # 1: for programs of one or two tiles; with rotary the first is then fetched before the queries are there


MAX_SPLITS = 128
_FEW_PAIRS = 4  # of requests and key heads
_GROUP_PAD = 8  # the queries' side of a matrix instruction


def plan_decode(num_requests: int, num_kv_heads: int, max_context: int) -> DecodePlan:
    """A good plan for a bucket: num_requests and max_context are its bounds.

    H200, µs of one kernel in a chain with pdl, 20 query and 4 key heads, caches not in L2; in brackets the time to read the keys and
    values at the read bandwidth of the same run. Tiles of 64, 4 warps | of 128, 8 warps, 1 stage | 2 stages, each with its best splits:
      1 × 600     5.92 |  4.89 |  5.25  (0.28)        64 × 600    26.6 | 27.1 | 25.5  (17.8)
      1 × 8192    15.9 |  12.7 |  13.6  (3.79)        64 × 8192    246 |  274 |  265  (243)
      1 × 32768   34.5 |  32.1 |  29.7  (15.2)       128 × 600    46.1 | 50.2 | 47.5  (35.6)
     16 × 600     12.0 |  12.5 |  12.8  (4.44)       256 × 600    79.2 | 90.7 | 88.3  (71.1)
     16 × 8192    68.7 |  77.4 |  72.5  (60.7)
    1 × 8192 in 16, 32, 64 splits of tiles of 128: 14.7, 12.7, 15.3.

    With rotary inside a step, µs of the whole step on an H100 (21B: 1 request; 0.3B: 1 and 64 requests), context 560. Tiles of 64, 1 stage
    | of 128, 1 stage | of 128, 2 stages:
      21B    2713 | 2740 | 2707        0.3B    437 | 437 | 481        0.3B, 64    1020 | 1159 | 1002
    So one stage only for very few programs, which are nothing but latency; with 16 requests it costs 16 µs a layer.
    """
    pairs = num_requests * num_kv_heads
    if pairs * max_context < 250_000:
        tile = 64 if pairs <= _FEW_PAIRS and max_context <= 4096 else 128
        tiles = math.ceil(max_context / tile)
        wanted = min(round(264 / pairs), max(16, math.ceil(tiles / 2)))
        num_splits = max(1, min(wanted, tiles, MAX_SPLITS))
        return DecodePlan(num_splits, tile, 1 if pairs <= _FEW_PAIRS and tiles <= 2 * num_splits else 2)
    tiles = math.ceil(max_context / 64)
    wanted = max(round(528 / pairs), math.ceil(tiles / 32))  # no program walks more than 2048 tokens: contexts differ in length
    return DecodePlan(max(1, min(wanted, tiles, MAX_SPLITS)), 64, 2)


def decode_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_tables: Tensor,
    context_lens: Tensor,
    scale: float,
    out: Tensor,
    workspace: DecodeWorkspace,
    plan: DecodePlan,
    *,
    pdl: bool = True,
) -> None:
    """out[r] = softmax(scale · q[r] Kᵀ) V over the first context_lens[r] tokens of request r's blocks.

    q [R, heads, d] bfloat16; caches [num_blocks, block_size, kv, d]; block_tables [R, max_blocks] int32; context_lens [R] int32, 0 for
    padding, which gives zeros; out [R, heads · d]; query head h reads key head h // (heads / kv). Each request's tiles are dealt in
    runs to at most plan.num_splits programs; the last to finish adds their results in the order of the tokens, so that the result depends
    on the request's context and the plan alone. block_tables and context_lens may be read before the preceding kernel has ended
    (pdl): they must come from an earlier one.
    """
    num_heads = q.shape[1]
    _launch(q, q, context_lens, k_cache, v_cache, block_tables, context_lens, scale, out, workspace, plan, num_heads, False, pdl)


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
    plan: DecodePlan,
    *,
    pdl: bool = True,
) -> None:
    """`rotary_kv_write`, then `decode_attention`, in one kernel: the token's slot is the last of its context.

    qkv [R, (heads + 2·kv) · d], columns q‖k‖v; cos_sin float32 [P, d]; positions [R] int32; the rest as in `decode_attention`. With pdl
    positions and the cached keys and values, too, must come from before the preceding kernel.
    """
    num_heads = qkv.shape[1] // k_cache.shape[3] - 2 * k_cache.shape[2]
    assert positions.shape[0] == qkv.shape[0] and cos_sin.shape[1] == k_cache.shape[3]
    _launch(qkv, cos_sin, positions, k_cache, v_cache, block_tables, context_lens, scale, out, workspace, plan, num_heads, True, pdl)


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
    plan: DecodePlan,
    num_heads: int,
    rotary: bool,
    pdl: bool,
) -> None:
    num_requests = q.shape[0]
    _, block_size, num_kv_heads, head_dim = k_cache.shape
    group = num_heads // num_kv_heads
    assert tuple(v_cache.shape) == tuple(k_cache.shape) and tuple(out.shape) == (num_requests, num_heads * head_dim)
    assert context_lens.shape[0] >= num_requests and block_tables.shape[0] >= num_requests
    assert num_heads == group * num_kv_heads and group <= _GROUP_PAD and head_dim == workspace.partials.shape[1]
    assert workspace.partials.shape[0] >= num_requests * num_kv_heads * plan.num_splits and plan.num_splits > 0
    assert workspace.arrivals.shape[0] >= num_requests * num_kv_heads and plan.tile in (64, 128)
    launch.run(
        _decode_attention_kernel,
        (num_kv_heads, plan.num_splits, num_requests),
        *(q, cos_sin, positions, k_cache, v_cache, block_tables, context_lens, out, *workspace),
        *(block_tables.shape[1], plan.num_splits, scale / math.log(2)),
        num_warps=plan.tile // 16,
        num_stages=plan.num_stages,
        pdl=pdl,
        NUM_KV_HEADS=num_kv_heads,
        GROUP=group,
        GROUP_PAD=_GROUP_PAD,
        HEAD_DIM=head_dim,
        BLOCK_SIZE=block_size,
        TILE=plan.tile,
        ROTARY=rotary,
        AHEAD=rotary and plan.num_stages == 1,
    )


@triton.jit(do_not_specialize=["num_splits", "max_blocks"])
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
    log_sums_ptr,  # [R, NUM_KV_HEADS, num_splits, GROUP_PAD] float32
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
    AHEAD: tl.constexpr,
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
    last, first_tile = context - 1, split * tiles_per_split
    stop_tile = tl.minimum(first_tile + tiles_per_split, num_tiles)
    table = block_tables_ptr + request.to(tl.int64) * max_blocks
    in_tile = tl.arange(0, TILE)
    columns = tl.arange(0, HEAD_DIM)
    tokens = first_tile * TILE + in_tile
    # The first tile can be here, or at least on its way into the L2 cache, before the queries exist.
    if AHEAD:
        cos, sin = _cos_sin(cos_sin_ptr, positions_ptr + request, HEAD_DIM)
        k, v = _cached_tile(k_cache_ptr, v_cache_ptr, table, tokens, tokens < last, kv_head, columns, TOKEN, BLOCK_SIZE)
    else:
        blocks = tl.load(table + tl.minimum(tokens, last) // BLOCK_SIZE, mask=in_tile < context, other=0)
        if PDL:
            lines = (_rows(blocks, tokens, BLOCK_SIZE) * TOKEN + kv_head * HEAD_DIM)[:, None] + tl.arange(0, 2)[None, :] * 64
            _prefetch(k_cache_ptr + lines, v_cache_ptr + lines)
    if PDL:
        gdc_wait()
        gdc_launch_dependents()

    in_group = tl.arange(0, GROUP_PAD)
    is_head = in_group < GROUP
    ROW_HEADS: tl.constexpr = NUM_KV_HEADS * GROUP + 2 * NUM_KV_HEADS * ROTARY
    q_row = q_ptr + request.to(tl.int64) * ROW_HEADS * HEAD_DIM
    q_heads = (kv_head * GROUP + in_group)[:, None] * HEAD_DIM + columns[None, :]
    q = tl.load(q_row + q_heads, mask=is_head[:, None], other=0.0)
    if ROTARY:
        k_row = q_row + (NUM_KV_HEADS * GROUP + kv_head) * HEAD_DIM + columns[None, :]
        if not AHEAD:
            cos, sin = _cos_sin(cos_sin_ptr, positions_ptr + request, HEAD_DIM)
        q = rotate_pairs(q.to(tl.float32), cos, sin).to(k_cache_ptr.dtype.element_ty)
        if AHEAD:
            new_k, new_v = _new_token(k_row, cos, sin, TOKEN)
        if (split == num_active - 1) & (context > 0):  # the one program of this key head that needs the new token
            slot = tl.load(table + last // BLOCK_SIZE).to(tl.int64) * BLOCK_SIZE + last % BLOCK_SIZE
            cache_row = slot * TOKEN + kv_head * HEAD_DIM + columns[None, :]
            if not AHEAD:
                new_k, new_v = _new_token(k_row, cos, sin, TOKEN)
            tl.store(k_cache_ptr + cache_row, new_k)
            tl.store(v_cache_ptr + cache_row, new_v)
        if not AHEAD:
            tl.debug_barrier()  # the loads below see what the program's other threads wrote
    q_columns = tl.trans(q)  # keys are the left operand: 8 queries pad to 8 columns, but would pad to 16 rows

    largest = tl.full([GROUP_PAD], -float("inf"), tl.float32)
    weight_sums = tl.zeros([TILE, GROUP_PAD], tl.float32)  # added up across tokens once, at the end: a sum over warps costs a barrier
    acc = tl.zeros([HEAD_DIM, GROUP_PAD], tl.float32)
    for tile in range(first_tile, stop_tile):
        tokens = tile * TILE + in_tile
        if AHEAD:
            is_new = (tokens == last)[:, None]
            k, v = tl.where(is_new, new_k, k), tl.where(is_new, new_v, v)
        else:
            cache_rows = (_rows(blocks, tokens, BLOCK_SIZE) * TOKEN + kv_head * HEAD_DIM)[:, None] + columns[None, :]
            # One tile ahead: else each tile would wait for its blocks' numbers before its loads can start.
            blocks = tl.load(table + tl.minimum(tokens + TILE, last) // BLOCK_SIZE)
            k = tl.load(k_cache_ptr + cache_rows, mask=(tokens < context)[:, None], other=0.0)
            v = tl.load(v_cache_ptr + cache_rows, mask=(tokens < context)[:, None], other=0.0)
        scores = tl.where((tokens < context)[:, None], tl.dot(k, q_columns) * scale_log2, -float("inf"))  # [TILE, GROUP_PAD]
        new_largest = tl.maximum(largest, tl.max(scores, axis=0))
        weights = tl.exp2(scores - new_largest[None, :])
        keep = tl.exp2(largest - new_largest)
        weight_sums = weight_sums * keep[None, :] + weights
        acc = tl.dot(tl.trans(v), weights.to(v.dtype), acc * keep[None, :])
        largest = new_largest
        if AHEAD:  # a second tile is rare, and registers are few: it is fetched when this one is done with
            tokens += TILE
            is_wanted = (tokens < last) & (tile + 1 < stop_tile)
            k, v = _cached_tile(k_cache_ptr, v_cache_ptr, table, tokens, is_wanted, kv_head, columns, TOKEN, BLOCK_SIZE)
    weight_sum = tl.sum(weight_sums, axis=0)
    acc = acc / tl.where(weight_sum > 0.0, weight_sum, 1.0)[None, :]  # 0 for an empty context

    row = request * NUM_KV_HEADS + kv_head
    out = out_ptr + (row.to(tl.int64) * GROUP + in_group)[:, None] * HEAD_DIM + columns[None, :]
    if num_active == 1:
        tl.store(out, tl.trans(acc).to(out_ptr.dtype.element_ty), mask=is_head[:, None])
    else:
        first = row.to(tl.int64) * num_splits
        within_partial = columns[:, None] * GROUP_PAD + in_group[None, :]
        tl.store(partials_ptr + (first + split) * HEAD_DIM * GROUP_PAD + within_partial, acc)
        tl.store(log_sums_ptr + (first + split) * GROUP_PAD + in_group, largest + tl.log2(weight_sum))
        tl.debug_barrier()  # every thread's part is written before one of them says so
        if tl.atomic_add(arrivals_ptr + row, 1, sem="acq_rel", scope="gpu") == num_active - 1:
            tl.store(arrivals_ptr + row, 0)
            acc = _merge(partials_ptr, log_sums_ptr, first, num_active, HEAD_DIM, GROUP_PAD)
            tl.store(out, tl.trans(acc).to(out_ptr.dtype.element_ty), mask=is_head[:, None])


@triton.jit
def _merge(partials_ptr, log_sums_ptr, first, num_active, HEAD_DIM: tl.constexpr, GROUP_PAD: tl.constexpr):
    """Σ of the splits' results, weighted by their shares of the softmax's sum, in the order of the splits. → [HEAD_DIM, GROUP_PAD]"""
    in_group = tl.arange(0, GROUP_PAD)[None, :]
    within_partial = tl.arange(0, HEAD_DIM)[:, None] * GROUP_PAD + in_group
    spread = tl.zeros([HEAD_DIM, 1], tl.int32) + in_group  # each thread loads the logarithms it needs: no exchange, no barrier
    largest = tl.full([HEAD_DIM, GROUP_PAD], -float("inf"), tl.float32)
    total = tl.zeros([HEAD_DIM, GROUP_PAD], tl.float32)
    acc = tl.zeros([HEAD_DIM, GROUP_PAD], tl.float32)
    for start in range(0, num_active, 8):
        for i in tl.static_range(8):  # their loads are in flight together
            is_split = start + i < num_active
            split = first + start + i
            partial = tl.load(partials_ptr + split * HEAD_DIM * GROUP_PAD + within_partial, mask=is_split, other=0.0, cache_modifier=".cg")
            log_sum = tl.load(log_sums_ptr + split * GROUP_PAD + spread, mask=is_split, other=-float("inf"), cache_modifier=".cg")
            new_largest = tl.maximum(largest, log_sum)
            keep = tl.exp2(largest - new_largest)
            weight = tl.exp2(log_sum - new_largest)
            total = total * keep + weight
            acc = acc * keep + partial * weight
            largest = new_largest
    return acc / total


@triton.jit
def _cos_sin(cos_sin_ptr, position_ptr, HEAD_DIM: tl.constexpr):
    angles = cos_sin_ptr + tl.load(position_ptr).to(tl.int64) * HEAD_DIM + tl.arange(0, HEAD_DIM // 2)
    return tl.load(angles), tl.load(angles + HEAD_DIM // 2)


@triton.jit
def _new_token(k_row, cos, sin, TOKEN: tl.constexpr):
    """Its rotated key and its value [1, HEAD_DIM]."""
    k = tl.load(k_row)
    return rotate_pairs(k.to(tl.float32), cos, sin).to(k.dtype), tl.load(k_row + TOKEN)


@triton.jit
def _cached_tile(k_cache_ptr, v_cache_ptr, table, tokens, is_wanted, kv_head, columns, TOKEN: tl.constexpr, BLOCK_SIZE: tl.constexpr):
    """Keys and values [TILE, HEAD_DIM] of `tokens`, 0 where they are not wanted."""
    blocks = tl.load(table + tokens // BLOCK_SIZE, mask=is_wanted, other=0)
    rows = (_rows(blocks, tokens, BLOCK_SIZE) * TOKEN + kv_head * columns.shape[0])[:, None] + columns[None, :]
    k = tl.load(k_cache_ptr + rows, mask=is_wanted[:, None], other=0.0)
    return k, tl.load(v_cache_ptr + rows, mask=is_wanted[:, None], other=0.0)


@triton.jit
def _rows(blocks, tokens, BLOCK_SIZE: tl.constexpr):
    """Rows of the flattened cache, in int64: 2³¹ elements are only 2 M tokens of 8 key heads."""
    return blocks.to(tl.int64) * BLOCK_SIZE + tokens % BLOCK_SIZE


@triton.jit
def _prefetch(keys, values):
    request: tl.constexpr = "prefetch.global.L2 [$1]; prefetch.global.L2 [$2]; mov.u32 $0, 0;"
    tl.inline_asm_elementwise(request, "=r,l,l", [keys, values], dtype=tl.int32, is_pure=False, pack=1)
