"""RMS normalisation, alone and behind a residual addition, and the embedding lookup, on the GPU; knows no layer."""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from .. import launch
from ..launch import Argument as Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float, out: Tensor, *, pdl: bool = True) -> None:
    """out = x / √(mean(x²) + eps) · weight, in float32, rounded once. x, out [T, H], weight [H]; any of float32, bfloat16."""
    num_tokens, hidden = x.shape
    assert weight.shape[0] == hidden and tuple(out.shape) == tuple(x.shape)
    _norm(x, x, weight, eps, out, num_tokens, hidden, False, pdl)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float, out: Tensor, *, pdl: bool = True) -> None:
    """residual += x; out = residual / √(mean(residual²) + eps) · weight. x, residual, out [T, H], weight [H].

    The sum is rounded to residual's dtype before it is squared, so that what the next layer adds to is what was normalised.
    """
    num_tokens, hidden = x.shape
    assert weight.shape[0] == hidden and tuple(out.shape) == tuple(residual.shape) == tuple(x.shape)
    _norm(x, residual, weight, eps, out, num_tokens, hidden, True, pdl)


def embedding(ids: Tensor, table: Tensor, out: Tensor, *, pdl: bool = True) -> None:
    """out[t] = table[ids[t]]. ids [T] int32 in [0, vocab), table [vocab, H], out [T, H]."""
    num_tokens, hidden = out.shape
    assert ids.shape[0] == num_tokens and table.shape[1] == hidden
    launch.run(_embedding_kernel, (num_tokens,), ids, table, out, pdl=pdl, HIDDEN=hidden, BLOCK=launch.next_power_of_2(hidden))


def _norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float, out: Tensor, num_tokens: int, hidden: int, add: bool, pdl: bool) -> None:
    block = launch.next_power_of_2(hidden)
    # H200, H = 2560, add_rms_norm with pdl, 2 | 4 | 8 warps: T = 1 1.13 | 1.06 | 1.04 µs, 256 2.48 | 2.42 | 2.42, 8192 42.4 | 42.4 | 42.1
    # (reading and writing: 38.1).
    num_warps = 4 if block <= 2048 else 8
    launch.run(
        _norm_kernel, (num_tokens,), x, residual, weight, out, eps, num_warps=num_warps, pdl=pdl, HIDDEN=hidden, BLOCK=block, ADD=add
    )


@triton.jit
def _norm_kernel(
    x_ptr,  # [T, HIDDEN]
    residual_ptr,  # [T, HIDDEN], written if ADD
    weight_ptr,  # [HIDDEN]
    out_ptr,  # [T, HIDDEN]
    eps,
    HIDDEN: tl.constexpr,
    BLOCK: tl.constexpr,
    ADD: tl.constexpr,
    PDL: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * HIDDEN
    columns = tl.arange(0, BLOCK)
    inside = columns < HIDDEN
    weight = tl.load(weight_ptr + columns, mask=inside, other=0.0).to(tl.float32)  # before the wait: no kernel writes it
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    x = tl.load(x_ptr + row + columns, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        x += tl.load(residual_ptr + row + columns, mask=inside, other=0.0).to(tl.float32)
        rounded = x.to(residual_ptr.dtype.element_ty)
        tl.store(residual_ptr + row + columns, rounded, mask=inside)
        x = rounded.to(tl.float32)
    scale = tl.rsqrt(tl.sum(x * x, axis=0) / HIDDEN + eps)
    tl.store(out_ptr + row + columns, (x * scale * weight).to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _embedding_kernel(
    ids_ptr,  # [T] int32
    table_ptr,  # [vocab, HIDDEN]
    out_ptr,  # [T, HIDDEN]
    HIDDEN: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    token = tl.program_id(0).to(tl.int64)
    table_row = tl.load(ids_ptr + token).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < HIDDEN
    values = tl.load(table_ptr + table_row * HIDDEN + columns, mask=inside, other=0.0)
    tl.store(out_ptr + token * HIDDEN + columns, values.to(out_ptr.dtype.element_ty), mask=inside)
