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
from . import vision_attention_hopper as hopper

_ROWS = 128
"""Queries of a program."""
_KEYS = 32
"""Keys of a tile. With 64 or 128, in two products, triton 3.6 gives wrong values on Hopper (errors of 3 to 7 %, once NaN)."""
_STAGES = 4
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
        HEAD_BLOCK=launch.next_power_of_2(2 * num_heads),
        HALF_BLOCK=launch.next_power_of_2(head_dim // 2),
    )
    if launch.runs_on_hopper(_vision_attention_kernel) and hopper.can_serve(head_dim, width):
        hopper.launch_vision_attention(qkv, scale, out, patches, head_dim)
        return
    first = max(_LEAST, 1 << (head_dim.bit_length() - 1))
    rest = max(0, head_dim - first)
    launch.run(
        _vision_attention_kernel,
        (launch.cdiv(patches, _ROWS), num_heads, rows // patches),
        *(qkv, out, patches, scale / math.log(2)),
        num_warps=8,
        num_stages=_STAGES,
        HEADS=num_heads,
        HEAD_DIM=head_dim,
        FIRST=first,
        REST=max(_LEAST, launch.next_power_of_2(rest)) if rest else 0,
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
        q_rest = tl.load(q_at + columns_rest[None, :], mask=is_row & (columns_rest < HEAD_DIM)[None, :], other=0.0)
        acc_rest = tl.zeros([ROWS, REST], tl.float32)
    state = largest, weight_sum, acc, acc_rest
    whole = patches // KEYS * KEYS
    for start in range(0, whole, KEYS):
        state = _attend_tile(q, q_rest, state, base, start, patches, scale_log2, HEADS, HEAD_DIM, FIRST, REST, KEYS, False)
    if whole < patches:
        state = _attend_tile(q, q_rest, state, base, whole, patches, scale_log2, HEADS, HEAD_DIM, FIRST, REST, KEYS, True)
    largest, weight_sum, acc, acc_rest = state
    out_at = out_ptr + (frame + queries[:, None]) * HEADS * HEAD_DIM + head * HEAD_DIM
    tl.store(out_at + columns[None, :], (acc / weight_sum[:, None]).to(out_ptr.dtype.element_ty), mask=is_row & is_column)
    if REST:
        columns_rest = FIRST + tl.arange(0, REST)
        rest = (acc_rest / weight_sum[:, None]).to(out_ptr.dtype.element_ty)
        tl.store(out_at + columns_rest[None, :], rest, mask=is_row & (columns_rest < HEAD_DIM)[None, :])


@triton.jit
def _attend_tile(
    q,  # [ROWS, FIRST], and [ROWS, REST] if there is a rest
    q_rest,
    state,
    base,  # of the frame's first query in this head
    start,
    patches,
    scale_log2,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    FIRST: tl.constexpr,
    REST: tl.constexpr,
    KEYS: tl.constexpr,
    CUT: tl.constexpr,  # whether the frame ends within this tile
):
    """The state (largest score · scale_log2, sum of the weights, weighted values and their rest) after KEYS more keys."""
    largest, weight_sum, acc, acc_rest = state
    keys = start + tl.arange(0, KEYS)
    columns = tl.arange(0, FIRST)[None, :]
    inside = columns < HEAD_DIM
    if CUT:
        inside = inside & (keys < patches)[:, None]
    k_at = base + HEADS * HEAD_DIM + keys[:, None] * (3 * HEADS * HEAD_DIM)
    v_at = k_at + HEADS * HEAD_DIM
    scores = tl.dot(q, tl.trans(tl.load(k_at + columns, mask=inside, other=0.0)))
    if REST:
        columns_rest = FIRST + tl.arange(0, REST)[None, :]
        inside_rest = columns_rest < HEAD_DIM
        if CUT:
            inside_rest = inside_rest & (keys < patches)[:, None]
        scores = tl.dot(q_rest, tl.trans(tl.load(k_at + columns_rest, mask=inside_rest, other=0.0)), scores)
    if CUT:
        scores = tl.where((keys < patches)[None, :], scores, -float("inf"))
    new_largest = tl.maximum(largest, tl.max(scores, axis=1) * scale_log2)
    weights = tl.exp2(scores * scale_log2 - new_largest[:, None])
    keep = tl.exp2(largest - new_largest)
    weight_sum = weight_sum * keep + tl.sum(weights, axis=1)
    weights = weights.to(q.dtype)
    acc = tl.dot(weights, tl.load(v_at + columns, mask=inside, other=0.0), acc * keep[:, None])
    if REST:
        acc_rest = tl.dot(weights, tl.load(v_at + columns_rest, mask=inside_rest, other=0.0), acc_rest * keep[:, None])
    return new_largest, weight_sum, acc, acc_rest
