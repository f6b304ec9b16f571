"""Rotary embedding of queries and keys on interleaved pairs, fused with the write into the paged cache, and the table for tokens that have
three positions, on the GPU; knows no attention."""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from .. import launch
from ..launch import Argument as Tensor


def rotary_kv_write(
    qkv: Tensor,
    cos_sin: Tensor,
    positions: Tensor,
    slot_mapping: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    q_out: Tensor,
    *,
    pdl: bool = True,
) -> None:
    """q_out = rotary(q); k_cache[slot], v_cache[slot] = rotary(k), v; (a, b) → (a·cos − b·sin, b·cos + a·sin) on pairs (2j, 2j + 1).

    qkv [T, (heads + 2·kv) · d], columns q‖k‖v; cos_sin float32 [P, d], cosines in the first half of a row, sines in the second; positions
    [T] int32 < P; slot_mapping [T] int32, −1 where nothing is to be written; caches [num_blocks, block_size, kv, d]; q_out [T, heads, d].
    """
    num_tokens, num_heads, head_dim = q_out.shape
    num_kv_heads = k_cache.shape[2]
    assert qkv.shape[1] == (num_heads + 2 * num_kv_heads) * head_dim and k_cache.shape[3] == cos_sin.shape[1] == head_dim
    assert tuple(v_cache.shape) == tuple(k_cache.shape) and positions.shape[0] == slot_mapping.shape[0] == num_tokens
    # H200, 28 heads: 8 heads a program 0.92 µs at T = 1 and 1.2 at 64, but 41 at 8192, where all 28 take 31.5 (read and write: 26.7).
    heads_per_program, num_warps = (8, 4) if num_tokens <= 64 else (32, 8)
    grid = (num_tokens, launch.cdiv(num_heads + 2 * num_kv_heads, heads_per_program))
    launch.run(
        _rotary_kv_write_kernel,
        grid,
        *(qkv, cos_sin, positions, slot_mapping, k_cache, v_cache, q_out),
        num_warps=num_warps,
        pdl=pdl,
        NUM_HEADS=num_heads,
        NUM_KV_HEADS=num_kv_heads,
        HEAD_DIM=head_dim,
        HEADS_PER_PROGRAM=heads_per_program,
    )


@triton.jit
def rotate_pairs(x, cos, sin):
    """x [rows, d], cos, sin [d / 2], float32 → [rows, d]. Which product is rounded is spelled out: every kernel gets the same bits."""
    rows: tl.constexpr = x.shape[0]
    half: tl.constexpr = x.shape[1] // 2
    a, b = tl.split(tl.reshape(x, [rows, half, 2]))
    cos, sin = tl.broadcast_to(cos[None, :], [rows, half]), tl.broadcast_to(sin[None, :], [rows, half])
    return tl.reshape(tl.join(tl.fma(a, cos, -(b * sin)), tl.fma(b, cos, a * sin)), [rows, 2 * half])


@triton.jit(do_not_specialize_on_alignment=["positions_ptr", "slot_mapping_ptr"])
def _rotary_kv_write_kernel(
    qkv_ptr,  # [T, (NUM_HEADS + 2 · NUM_KV_HEADS) · HEAD_DIM]
    cos_sin_ptr,  # [P, HEAD_DIM] float32
    positions_ptr,  # [T] int32
    slot_mapping_ptr,  # [T] int32
    k_cache_ptr,  # [num_blocks, block_size, NUM_KV_HEADS, HEAD_DIM]
    v_cache_ptr,
    q_out_ptr,  # [T, NUM_HEADS, HEAD_DIM]
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HEADS_PER_PROGRAM: tl.constexpr,
    PDL: tl.constexpr,
):
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    token = tl.program_id(0).to(tl.int64)
    heads = tl.program_id(1) * HEADS_PER_PROGRAM + tl.arange(0, HEADS_PER_PROGRAM)
    columns = tl.arange(0, HEAD_DIM)[None, :]
    ROW: tl.constexpr = NUM_HEADS + 2 * NUM_KV_HEADS
    angles = cos_sin_ptr + tl.load(positions_ptr + token).to(tl.int64) * HEAD_DIM
    cos = tl.load(angles + tl.arange(0, HEAD_DIM // 2))
    sin = tl.load(angles + HEAD_DIM // 2 + tl.arange(0, HEAD_DIM // 2))
    slot = tl.load(slot_mapping_ptr + token).to(tl.int64)  # in tokens: 2³¹ elements of a cache are only 2 M tokens of 8 key heads
    raw = tl.load(qkv_ptr + token * ROW * HEAD_DIM + heads[:, None] * HEAD_DIM + columns, mask=(heads < ROW)[:, None], other=0.0)
    rotated = rotate_pairs(raw.to(tl.float32), cos, sin).to(q_out_ptr.dtype.element_ty)

    is_query = heads < NUM_HEADS
    tl.store(q_out_ptr + token * NUM_HEADS * HEAD_DIM + heads[:, None] * HEAD_DIM + columns, rotated, mask=is_query[:, None])
    is_written = (slot >= 0) & (heads >= NUM_HEADS) & (heads < ROW)
    key_heads = heads - NUM_HEADS
    k_row = k_cache_ptr + slot * NUM_KV_HEADS * HEAD_DIM + key_heads[:, None] * HEAD_DIM + columns
    tl.store(k_row, rotated, mask=(is_written & (key_heads < NUM_KV_HEADS))[:, None])
    value_heads = key_heads - NUM_KV_HEADS
    v_row = v_cache_ptr + slot * NUM_KV_HEADS * HEAD_DIM + value_heads[:, None] * HEAD_DIM + columns
    tl.store(v_row, raw, mask=(is_written & (value_heads >= 0))[:, None])


def rope_rows(cos_sin: Tensor, positions: Tensor, axes: Tensor, out: Tensor) -> None:
    """out[t, j] = cos_sin[positions[axes[j mod d / 2], t], j]. cos_sin [P, d], out [T, d] float32; positions [3, T], axes [d / 2] int32."""
    num_tokens, head_dim = out.shape
    assert cos_sin.shape[1] == head_dim == 2 * axes.shape[0] and tuple(positions.shape) == (3, num_tokens)
    block = launch.next_power_of_2(head_dim)
    launch.run(_rope_rows_kernel, (num_tokens,), cos_sin, positions, axes, out, num_tokens, HEAD_DIM=head_dim, BLOCK=block)


@triton.jit(do_not_specialize=["num_tokens"])  # as in linear.tile_kernel
def _rope_rows_kernel(
    cos_sin_ptr,  # [P, HEAD_DIM] float32
    positions_ptr,  # [3, T] int32
    axes_ptr,  # [HEAD_DIM / 2] int32
    out_ptr,  # [T, HEAD_DIM] float32
    num_tokens,
    HEAD_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < HEAD_DIM
    axis = tl.load(axes_ptr + columns % (HEAD_DIM // 2))
    position = tl.load(positions_ptr + axis.to(tl.int64) * num_tokens + token).to(tl.int64)
    row = tl.load(cos_sin_ptr + position * HEAD_DIM + columns, mask=inside, other=0.0)
    tl.store(out_ptr + token * HEAD_DIM + columns, row, mask=inside)
