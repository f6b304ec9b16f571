"""What a vision tower does element by element: pixels to numbers, layer normalisation, bias with GELU or residual; knows no layer."""

from __future__ import annotations

import math

import triton
import triton.language as tl

from .. import launch
from ..launch import Argument as Tensor

_BLOCK = 1024
KINDS = {"": 0, "gelu": 1, "gelu_pytorch_tanh": 2, "quick_gelu": 3}
"""Activations of `add_bias` by name; the empty one does nothing."""
_SQRT_HALF = tl.constexpr(math.sqrt(0.5))
_TANH_SLOPE = tl.constexpr(2 * math.sqrt(2 / math.pi))


def normalize_pixels(pixels: Tensor, mean: Tensor, std: Tensor, out: Tensor) -> None:
    """out = (x / 255 − mean) / std. pixels uint8, out [N, W]; mean, std [W] float32."""
    num_patches, width = pixels.shape
    assert tuple(out.shape) == (num_patches, width) and mean.shape[0] == std.shape[0] == width
    block = launch.next_power_of_2(width)
    launch.run(_normalize_pixels_kernel, (num_patches,), pixels, mean, std, out, width, BLOCK=block)


@triton.jit
def _normalize_pixels_kernel(pixels_ptr, mean_ptr, std_ptr, out_ptr, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * width
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    x = tl.load(pixels_ptr + row + columns, mask=inside, other=0).to(tl.float32)
    mean = tl.load(mean_ptr + columns, mask=inside, other=0.0)
    std = tl.load(std_ptr + columns, mask=inside, other=1.0)
    tl.store(out_ptr + row + columns, ((x / 255 - mean) / std).to(out_ptr.dtype.element_ty), mask=inside)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, out: Tensor) -> None:
    """out = (x − mean) / √(variance + eps) · weight + bias, in float32, rounded once. x, out [T, H]; weight, bias [H] float32."""
    num_tokens, hidden = x.shape
    assert weight.shape[0] == bias.shape[0] == hidden and tuple(out.shape) == tuple(x.shape)
    block = launch.next_power_of_2(hidden)
    num_warps = 4 if block <= 2048 else 8
    launch.run(_layer_norm_kernel, (num_tokens,), x, weight, bias, out, eps, num_warps=num_warps, HIDDEN=hidden, BLOCK=block)


@triton.jit
def _layer_norm_kernel(
    x_ptr,  # [T, HIDDEN]
    weight_ptr,  # [HIDDEN] float32
    bias_ptr,  # [HIDDEN] float32
    out_ptr,  # [T, HIDDEN]
    eps,
    HIDDEN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * HIDDEN
    columns = tl.arange(0, BLOCK)
    inside = columns < HIDDEN
    x = tl.load(x_ptr + row + columns, mask=inside, other=0.0).to(tl.float32)
    centred = tl.where(inside, x - tl.sum(x, axis=0) / HIDDEN, 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred, axis=0) / HIDDEN + eps)
    weight = tl.load(weight_ptr + columns, mask=inside, other=0.0)
    bias = tl.load(bias_ptr + columns, mask=inside, other=0.0)
    tl.store(out_ptr + row + columns, (centred * scale * weight + bias).to(out_ptr.dtype.element_ty), mask=inside)


def add_bias(x: Tensor, bias: Tensor, residual: Tensor | None = None, kind: str = "") -> None:
    """x = act(x + bias), + residual if that is given, in place, in float32, rounded once. x, residual [T, N]; bias [N] float32; `kind` of
    `KINDS`."""
    num_tokens, width = x.shape
    assert bias.shape[0] == width and (residual is None or tuple(residual.shape) == tuple(x.shape))
    added = x if residual is None else residual
    grid = (num_tokens, launch.cdiv(width, _BLOCK))
    launch.run(_add_bias_kernel, grid, x, bias, added, width, KIND=KINDS[kind], ADD=residual is not None, BLOCK=_BLOCK)


@triton.jit
def _add_bias_kernel(x_ptr, bias_ptr, residual_ptr, width, KIND: tl.constexpr, ADD: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * width
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    x = tl.load(x_ptr + row + columns, mask=inside, other=0.0).to(tl.float32) + tl.load(bias_ptr + columns, mask=inside, other=0.0)
    if KIND == 1:
        x = x * 0.5 * (1.0 + tl.erf(x * _SQRT_HALF))
    elif KIND == 2:  # ½(1 + tanh u) is the logistic function of 2u
        x = x * tl.sigmoid((x + 0.044715 * x * x * x) * _TANH_SLOPE)
    elif KIND == 3:
        x = x * tl.sigmoid(1.702 * x)
    if ADD:
        x += tl.load(residual_ptr + row + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(x_ptr + row + columns, x.to(x_ptr.dtype.element_ty), mask=inside)
