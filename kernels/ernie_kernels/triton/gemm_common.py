"""What the matrix kernels share on the device: prefetching weights, splitting gate from up; knows no shape and launches nothing."""

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
