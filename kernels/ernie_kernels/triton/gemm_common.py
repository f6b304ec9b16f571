"""What the matrix kernels share on the device: a tile of a product, its rows, prefetching; knows no shape and launches nothing."""

from __future__ import annotations

import triton
import triton.language as tl


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
):
    """W x over `length` elements → [ROWS, TOKENS] float32.

    SLICES > 1: each step reads SLICES · DEPTH elements of a row, and groups of warps multiply a slice each; their sums are added at the end.
    Few rows per program then still read long runs of memory (H200, 1 KiB runs instead of 256 B: +4 % of bandwidth).
    """
    if SLICES == 1:
        depth = tl.arange(0, DEPTH)
        w_pointers = w_rows[:, None] + depth[None, :]
        x_pointers = x_columns[None, :] + depth[:, None]
        total = tl.zeros([ROWS, TOKENS], tl.float32)
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
