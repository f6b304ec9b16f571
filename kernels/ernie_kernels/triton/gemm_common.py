"""What the matrix kernels share: a tile of a product, its rows, prefetching, bulk copies; knows no shape and launches nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from ..launch import Argument as Tensor


class _Bfloat16(str):
    """The dtype as a descriptor asks for it: Paddle's have no size."""

    itemsize = 2
    is_floating_point = True


@dataclass(frozen=True)
class _Base:
    tensor: Tensor
    dtype: ClassVar[_Bfloat16] = _Bfloat16("bfloat16")

    def data_ptr(self) -> int:
        return int(self.tensor.data_ptr())


def expert_boxes(w: Tensor, rows: int, depth: int, paired: bool) -> TensorDescriptor:
    """What Hopper's bulk copies need to know of weights [E, N, K] bfloat16, of which a program takes boxes of `rows` rows (paired: half of
    them gate rows, half the up rows that belong to them) by `depth`. Their start: [2 · expert, gate row, k], or [expert, row, k]."""
    experts, n, k = w.shape
    parts = 2 if paired else 1
    return TensorDescriptor(_Base(w), [experts * parts, n // parts, k], [n // parts * k, k, 1], [parts, rows // parts, depth])


LONG_SUM = tl.constexpr(4096)
"""The most elements that one accumulator of the matrix unit takes where sums are long; a multiple of every depth."""


@triton.jit
def prefetch_to_l2(pointers, num_bytes):
    """Asks for `num_bytes` (a multiple of 16; 0: none) at each of `pointers` to be brought to L2; returns at once. Hopper and later.

    For weights, before gdc_wait: memory then works while the kernel before still drains.
    """
    tl.inline_asm_elementwise(
        "{ .reg .pred p; setp.ne.u32 p, $2, 0; @p cp.async.bulk.prefetch.L2.global [$1], $2; mov.u32 $0, 0; }",
        "=r,l,r",
        [pointers, num_bytes],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )


@triton.jit
def prefetch_share(weights_ptr, num_bytes, share, NUM_SHARES: tl.constexpr, LANES: tl.constexpr):
    """Asks for one of NUM_SHARES equal parts of `num_bytes` (a multiple of 16) of bfloat16 weights. LANES: at least a program's threads."""
    lane = share * LANES + tl.arange(0, LANES)
    each = tl.cdiv(num_bytes, NUM_SHARES * LANES * 16) * 16
    start = lane * each
    prefetch_to_l2(weights_ptr + start // 2, tl.maximum(tl.minimum(num_bytes - start, each), 0))


@triton.jit
def silu_mul(gate, up):
    """silu(gate) · up in float32."""
    return gate / (1.0 + tl.exp(-gate)) * up


@triton.jit
def weight_rows(index, tile, rows_total, ROWS: tl.constexpr, PAIRED: tl.constexpr):
    """The weight rows at `index` (0..ROWS-1) of a row tile; PAIRED: half of them gate rows, then the up rows that belong to them."""
    if PAIRED:
        half: tl.constexpr = ROWS // 2
        gate = tl.minimum(tile * half + index % half, rows_total // 2 - 1)
        row = tl.where(index < half, gate, gate + rows_total // 2)
    else:
        row = tl.minimum(tile * ROWS + index, rows_total - 1)
    return row


@triton.jit
def tile_product(
    w_rows,  # [ROWS] pointers to the first element of each weight row
    x_columns,  # [TOKENS] pointers to the first element of each token
    length,  # elements of K; a multiple of SLICES · DEPTH
    ROWS: tl.constexpr,
    TOKENS: tl.constexpr,
    DEPTH: tl.constexpr,
    SLICES: tl.constexpr,
    LONG: tl.constexpr = False,  # length > LONG_SUM may be
):
    """W x over `length` elements → [ROWS, TOKENS] float32.

    LONG: sums of LONG_SUM elements each, then their sum. The matrix unit truncates what it adds to a large sum, and the error grows with
    the length: 1.4e-5 of the result at 12288 elements, 4e-6 at 4096.
    SLICES > 1: each step reads SLICES · DEPTH elements of a row, and groups of warps multiply a slice each; their sums are added at
    the end. So small matrices have programs enough with few rows each.
    """
    if SLICES == 1:
        depth = tl.arange(0, DEPTH)
        w_pointers = w_rows[:, None] + depth[None, :]
        x_pointers = x_columns[None, :] + depth[:, None]
        total = tl.zeros([ROWS, TOKENS], tl.float32)
        if LONG:
            for start in range(0, length, LONG_SUM):
                part = tl.zeros([ROWS, TOKENS], tl.float32)
                for _step in range(start, tl.minimum(start + LONG_SUM, length), DEPTH):
                    part = tl.dot(tl.load(w_pointers, eviction_policy="evict_first"), tl.load(x_pointers), part)
                    w_pointers += DEPTH
                    x_pointers += DEPTH
                total += part
        else:
            for _step in range(0, length, DEPTH):
                total = tl.dot(tl.load(w_pointers, eviction_policy="evict_first"), tl.load(x_pointers), total)
                w_pointers += DEPTH
                x_pointers += DEPTH
    else:
        depth = tl.arange(0, SLICES)[:, None] * DEPTH + tl.arange(0, DEPTH)[None, :]
        w_pointers = w_rows[None, :, None] + depth[:, None, :]
        x_pointers = x_columns[None, None, :] + depth[:, :, None]
        sliced = tl.zeros([SLICES, ROWS, TOKENS], tl.float32)
        for _step in range(0, length, SLICES * DEPTH):
            sliced = tl.dot(tl.load(w_pointers, eviction_policy="evict_first"), tl.load(x_pointers), sliced)
            w_pointers += SLICES * DEPTH
            x_pointers += SLICES * DEPTH
        total = tl.sum(sliced, axis=0)
    return total


@triton.jit
def boxed_tile_product(
    w_boxes,  # expert_boxes(...) with boxes of ROWS x DEPTH
    first,  # where the boxes start
    second,
    x_columns,  # [TOKENS]
    length,
    ROWS: tl.constexpr,
    TOKENS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """`tile_product` with the weights fetched by bulk copies, which need no instruction per row."""
    x_pointers = x_columns[None, :] + tl.arange(0, DEPTH)[:, None]
    total = tl.zeros([ROWS, TOKENS], tl.float32)
    for start in range(0, length, DEPTH):
        weights = tl.reshape(w_boxes.load([first, second, start]), [ROWS, DEPTH])
        total = tl.dot(weights, tl.load(x_pointers), total)
        x_pointers += DEPTH
    return total
