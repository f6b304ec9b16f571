"""The end of a block: weighted sum of a token's parts, alone or with residual and RMSNorm; knows not where the parts come from."""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from .. import launch
from ..launch import Argument as Tensor


def combine_add_rms_norm(
    parts: Tensor,  # [T, S, H] bfloat16 or float32
    part_weights: Tensor | None,  # [T, k] float32, k ≤ S; None: all 1
    residual: Tensor,  # [T, H] bfloat16, in and out
    norm_weight: Tensor,  # [H] bfloat16 or float32
    eps: float,
    out: Tensor,  # [T, H] bfloat16
    *,
    uniform: bool = False,
    pdl: bool = True,
) -> None:
    """residual += Σⱼ w[t, j] · parts[t, j]; out = norm_weight · residual / sqrt(mean(residual²) + eps).

    w[t, j] = 1 for j ≥ k: the shared experts. Sums in float32 in the order of j; the norm sees the residual as stored (bfloat16).
    `uniform`: the order of a row's sums does not depend on T.
    """
    num_tokens, num_parts, hidden = parts.shape
    weighted = 0 if part_weights is None else int(part_weights.shape[1])
    assert weighted <= num_parts and residual.shape[1] == hidden
    launch.run(
        combine_kernel,
        (num_tokens,),
        parts,
        norm_weight if part_weights is None else part_weights,
        residual,
        norm_weight,
        out,
        hidden,
        eps,
        PARTS=num_parts,
        WEIGHTED=weighted,
        BLOCK=launch.next_power_of_2(hidden),
        num_warps=16
        if num_tokens <= 16 and hidden > 1024 and not uniform
        else 8
        if hidden > 1024
        else 4,  # few tokens: more loads under way
        pdl=pdl,
    )


@triton.jit
def combine_kernel(
    parts_ptr,
    part_weights_ptr,
    residual_ptr,
    norm_weight_ptr,
    out_ptr,
    H,
    eps,
    PARTS: tl.constexpr,
    WEIGHTED: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < H
    norm_weight = tl.load(norm_weight_ptr + column, mask=inside, other=0.0)
    if PDL:
        gdc_wait()
    base = residual_ptr + token * H + column
    total = tl.load(base, mask=inside, other=0.0).to(tl.float32)
    added = tl.zeros([BLOCK], tl.float32)
    for j in tl.static_range(PARTS):
        part = tl.load(parts_ptr + (token * PARTS + j) * H + column, mask=inside, other=0.0).to(tl.float32)
        if j < WEIGHTED:
            part *= tl.load(part_weights_ptr + token * WEIGHTED + j)
        added += part
    if PDL:
        # Only now: the next kernel's loads of weights would delay these (a step of 21B on an H100: 50 µs at 1 token, 140 at 16).
        gdc_launch_dependents()
    stored = (total + added).to(residual_ptr.dtype.element_ty)
    tl.store(base, stored, mask=inside)
    total = stored.to(tl.float32)
    scale = tl.rsqrt(tl.sum(total * total) / H + eps)
    tl.store(out_ptr + token * H + column, (total * scale * norm_weight.to(tl.float32)).to(out_ptr.dtype.element_ty), mask=inside)


def combine_rows(parts: Tensor, part_weights: Tensor, rows: Tensor, out: Tensor) -> None:
    """out[rows[t]] = Σⱼ w[t, j] · parts[t, j], w[t, j] = 1 for j ≥ k, in float32 in the order of j.

    parts [T, S, H] bfloat16; part_weights [T, k] float32; rows [T] int32, all different; out [≥ T, H] float32.
    """
    num_tokens, num_parts, hidden = parts.shape
    weighted = part_weights.shape[1]
    assert weighted <= num_parts and rows.shape[0] == num_tokens and out.shape[1] == hidden
    arguments = (parts, part_weights, rows, out, hidden)
    block = launch.next_power_of_2(hidden)
    launch.run(_combine_rows_kernel, (num_tokens,), *arguments, PARTS=num_parts, WEIGHTED=weighted, BLOCK=block, num_warps=8)


@triton.jit
def _combine_rows_kernel(
    parts_ptr, part_weights_ptr, rows_ptr, out_ptr, H, PARTS: tl.constexpr, WEIGHTED: tl.constexpr, BLOCK: tl.constexpr
):
    token = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < H
    total = tl.zeros([BLOCK], tl.float32)
    for j in tl.static_range(PARTS):
        part = tl.load(parts_ptr + (token * PARTS + j) * H + column, mask=inside, other=0.0).to(tl.float32)
        if j < WEIGHTED:
            part *= tl.load(part_weights_ptr + token * WEIGHTED + j)
        total += part
    row = tl.load(rows_ptr + token).to(tl.int64)
    tl.store(out_ptr + row * H + column, total.to(out_ptr.dtype.element_ty), mask=inside)
