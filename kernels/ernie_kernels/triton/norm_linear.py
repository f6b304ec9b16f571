"""Residual, RMSNorm and a linear in one kernel for one token: `norm.add_rms_norm`, then `linear.linear`; knows no layer.

In a narrow model a step of one token is nothing but latency, and a norm of its own costs 1.5 to 2 µs of it. Here every program normalises
the token for itself, which it must read anyway.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from .. import launch
from ..launch import Argument as Tensor
from .gemm_common import silu_mul, weight_rows

MAX_HIDDEN = 2048
"""Wider tokens take longer to normalise in every program than a kernel of its own costs."""

_ROWS, _NUM_WARPS = 4, 2
"""A step of 0.3B on an H100: 409 µs; 4 rows and 4 warps 436, 8 and 4 444, 2 and 2 443, 8 and 8 429; norms of their own 445."""


def add_norm_linear(
    x: Tensor,  # [1, K] bfloat16
    residual: Tensor,  # [1, K] bfloat16
    norm_weight: Tensor,  # [K] bfloat16 or float32
    eps: float,
    w: Tensor,  # [N, K] bfloat16
    total: Tensor,  # [1, K] bfloat16, not residual itself: programs read that while one writes this
    out: Tensor,  # [1, N] bfloat16, with `silu` [1, N / 2]
    *,
    silu: bool = False,
    pdl: bool = True,
) -> None:
    """total = x + residual; y = norm_weight · total / √(mean(total²) + eps); out = y Wᵀ, or silu(y Gᵀ) · (y Uᵀ) with G‖U = W.

    Rounded where the two kernels round: the sum, and y, to bfloat16. K ≤ MAX_HIDDEN, a multiple of 64; N a multiple of 4.
    """
    n, k = w.shape
    assert tuple(x.shape) == tuple(residual.shape) == tuple(total.shape) == (1, k) and out.shape[1] * (1 + silu) == n
    assert k <= MAX_HIDDEN and k % 64 == 0 and n % _ROWS == 0
    launch.run(
        add_norm_gemv_kernel,
        (n // _ROWS,),
        *(x, residual, norm_weight, w, total, out, n, eps),
        K=k,
        ROWS=_ROWS,
        BLOCK=launch.next_power_of_2(k),
        SILU=silu,
        num_warps=_NUM_WARPS,
        pdl=pdl,
    )


@triton.jit
def add_norm_gemv_kernel(
    x_ptr,  # [K]
    residual_ptr,  # [K]
    norm_weight_ptr,  # [K]
    w_ptr,  # [N, K]
    total_ptr,  # [K]
    out_ptr,  # [N], or [N / 2] with SILU
    N,
    eps,
    K: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    SILU: tl.constexpr,
    PDL: tl.constexpr,
):
    if PDL:
        gdc_launch_dependents()  # this early, as in linear.gemv_kernel
    tile = tl.program_id(0)
    row = weight_rows(tl.arange(0, ROWS), tile, N, ROWS, SILU).to(tl.int64)
    # Everything in the layout of the weights, so that nothing is exchanged: each thread reads the columns that it multiplies.
    column = (row * 0).to(tl.int32)[:, None] + tl.arange(0, BLOCK)[None, :]
    inside = column < K
    weights = tl.load(w_ptr + row[:, None] * K + column, mask=inside, other=0.0, eviction_policy="evict_first").to(tl.float32)
    norm_weight = tl.load(norm_weight_ptr + column, mask=inside, other=0.0).to(tl.float32)
    if PDL:
        gdc_wait()
    added = tl.load(x_ptr + column, mask=inside, other=0.0).to(tl.float32)
    added += tl.load(residual_ptr + column, mask=inside, other=0.0).to(tl.float32)
    rounded = added.to(total_ptr.dtype.element_ty)
    if tile == 0:
        tl.store(total_ptr + column, rounded, mask=inside)  # the rows store the same
    total = rounded.to(tl.float32)
    scale = tl.rsqrt(tl.sum(total * total, axis=1) / K + eps)
    y = (total * scale[:, None] * norm_weight).to(out_ptr.dtype.element_ty).to(tl.float32)
    product = tl.sum(weights * y, axis=1)
    if SILU:
        gate, up = tl.split(tl.trans(tl.reshape(product, [2, ROWS // 2])))
        out_row = tile * (ROWS // 2) + tl.arange(0, ROWS // 2)
        tl.store(out_ptr + out_row, silu_mul(gate, up).to(out_ptr.dtype.element_ty))
    else:
        tl.store(out_ptr + tile * ROWS + tl.arange(0, ROWS), product.to(out_ptr.dtype.element_ty))
