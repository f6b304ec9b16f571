"""Attention of every patch to every other of its frame, with rotary positions, for head widths that are no power of two; knows no layer.

A head of 80 (ERNIE-4.5-VL) or 72 (PaddleOCR-VL) is computed as 64 columns and a rest of 16, of which 72 leaves half empty: padding to 128
would make every product 1.6 times as long.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl

from .. import launch
from ..launch import Argument as Tensor

_ROWS = 128
"""Queries of a program."""
_KEYS = 64
"""Keys of a tile."""
_LEAST = 16
"""The shortest side of a tensor core's product."""


def vision_attention(qkv: Tensor, cos_sin: Tensor, scale: float, out: Tensor) -> None:
    """out = softmax(scale · rotary(q) rotary(k)ᵀ) v within each frame and head; (a, b) → (a·cos − b·sin, b·cos + a·sin) on halves.

    qkv [T · S, 3 · heads · d] bfloat16, columns q‖k‖v, T frames of S patches, q and k changed in place; cos_sin [S, d] float32, cosines in
    the first half of a row; out [T · S, heads · d].
    """
    rows, width = out.shape
    patches, head_dim = cos_sin.shape
    assert tuple(qkv.shape) == (rows, 3 * width) and width % head_dim == 0 and rows % patches == 0 and head_dim % 2 == 0
    num_heads = width // head_dim
    launch.run(
        _rotate_halves_kernel,
        (rows,),
        *(qkv, cos_sin, patches),
        HEADS=num_heads,
        HEAD_DIM=head_dim,
        HEAD_BLOCK=triton.next_power_of_2(2 * num_heads),
        HALF_BLOCK=triton.next_power_of_2(head_dim // 2),
    )
    first = max(_LEAST, 1 << (head_dim.bit_length() - 1))
    rest = max(0, head_dim - first)
    launch.run(
        _vision_attention_kernel,
        (triton.cdiv(patches, _ROWS), num_heads, rows // patches),
        *(qkv, out, patches, scale / math.log(2)),
        num_warps=8,
        num_stages=3,
        HEADS=num_heads,
        HEAD_DIM=head_dim,
        FIRST=first,
        REST=max(_LEAST, triton.next_power_of_2(rest)) if rest else 0,
        ROWS=_ROWS,
        KEYS=_KEYS,
    )


@triton.jit
def _rotate_halves_kernel(
    qkv_ptr,  # [T · S, 3 · HEADS · HEAD_DIM]; the first two thirds are changed
    cos_sin_ptr,  # [S, HEAD_DIM] float32
    patches,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HEAD_BLOCK: tl.constexpr,
    HALF_BLOCK: tl.constexpr,
):
    HALF: tl.constexpr = HEAD_DIM // 2
    row = tl.program_id(0)
    columns = tl.arange(0, HALF_BLOCK)
    heads = tl.arange(0, HEAD_BLOCK)
    angles = cos_sin_ptr + row % patches * HEAD_DIM + columns
    cos = tl.load(angles, mask=columns < HALF, other=0.0)[None, :]
    sin = tl.load(angles + HALF, mask=columns < HALF, other=0.0)[None, :]
    inside = (heads < 2 * HEADS)[:, None] & (columns < HALF)[None, :]
    at = qkv_ptr + row.to(tl.int64) * 3 * HEADS * HEAD_DIM + heads[:, None] * HEAD_DIM + columns[None, :]
    a = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(at + HALF, mask=inside, other=0.0).to(tl.float32)
    tl.store(at, (a * cos - b * sin).to(qkv_ptr.dtype.element_ty), mask=inside)
    tl.store(at + HALF, (b * cos + a * sin).to(qkv_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _vision_attention_kernel(
    qkv_ptr,  # [T · S, 3 · HEADS · HEAD_DIM], q and k turned
    out_ptr,  # [T · S, HEADS · HEAD_DIM]
    patches,
    scale_log2,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    FIRST: tl.constexpr,  # columns of the first product, and of the rest (0: there is none)
    REST: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
):
    ROW: tl.constexpr = 3 * HEADS * HEAD_DIM
    head = tl.program_id(1)
    frame = tl.program_id(2).to(tl.int64) * patches
    queries = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    is_row = (queries < patches)[:, None]
    columns = tl.arange(0, FIRST)
    is_column = (columns < HEAD_DIM)[None, :]
    base = qkv_ptr + frame * ROW + head * HEAD_DIM
    q_at = base + queries[:, None] * ROW
    q = tl.load(q_at + columns[None, :], mask=is_row & is_column, other=0.0)
    largest = tl.full([ROWS], -float("inf"), tl.float32)
    weight_sum = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, FIRST], tl.float32)
    q_rest, acc_rest = q, acc
    if REST:
        columns_rest = FIRST + tl.arange(0, REST)
        is_rest = (columns_rest < HEAD_DIM)[None, :]
        q_rest = tl.load(q_at + columns_rest[None, :], mask=is_row & is_rest, other=0.0)
        acc_rest = tl.zeros([ROWS, REST], tl.float32)
    for start in range(0, patches, KEYS):
        keys = start + tl.arange(0, KEYS)
        is_key = keys < patches
        k_at = base + HEADS * HEAD_DIM + keys[:, None] * ROW
        v_at = k_at + HEADS * HEAD_DIM
        k = tl.load(k_at + columns[None, :], mask=is_key[:, None] & is_column, other=0.0)
        v = tl.load(v_at + columns[None, :], mask=is_key[:, None] & is_column, other=0.0)
        scores = tl.dot(q, tl.trans(k))
        if REST:
            k_rest = tl.load(k_at + columns_rest[None, :], mask=is_key[:, None] & is_rest, other=0.0)
            scores = tl.dot(q_rest, tl.trans(k_rest), scores)
        scores = tl.where(is_key[None, :], scores * scale_log2, -float("inf"))
        new_largest = tl.maximum(largest, tl.max(scores, axis=1))
        weights = tl.exp2(scores - new_largest[:, None])
        keep = tl.exp2(largest - new_largest)
        weight_sum = weight_sum * keep + tl.sum(weights, axis=1)
        weights = weights.to(v.dtype)
        acc = tl.dot(weights, v, acc * keep[:, None])
        if REST:
            v_rest = tl.load(v_at + columns_rest[None, :], mask=is_key[:, None] & is_rest, other=0.0)
            acc_rest = tl.dot(weights, v_rest, acc_rest * keep[:, None])
        largest = new_largest
    out_at = out_ptr + (frame + queries[:, None]) * HEADS * HEAD_DIM + head * HEAD_DIM
    tl.store(out_at + columns[None, :], (acc / weight_sum[:, None]).to(out_ptr.dtype.element_ty), mask=is_row & is_column)
    if REST:
        rest = (acc_rest / weight_sum[:, None]).to(out_ptr.dtype.element_ty)
        tl.store(out_at + columns_rest[None, :], rest, mask=is_row & is_rest)
