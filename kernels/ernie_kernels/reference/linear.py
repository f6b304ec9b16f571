"""Matrix products with a weight, and embedding rows; knows no layer."""

from __future__ import annotations

from .. import xp
from ..weights import EmbeddingWeight, LinearWeight, as_float32
from ..xp import Tensor
from .activation import gelu
from .activation import swiglu as _swiglu
from .norm import add_rms_norm


def linear(x: Tensor, w: LinearWeight) -> Tensor:
    """y = x Wᵀ. x [T, in] float32 → [T, out] float32."""
    return xp.matmul(x, xp.transpose(xp.from_numpy(as_float32(w.array)), (1, 0)))


def add_rms_norm_linear(
    x: Tensor, residual: Tensor, norm_weight: Tensor, eps: float, w: LinearWeight, *, swiglu: bool = False
) -> tuple[Tensor, Tensor]:
    """s = x + residual; → (rms_norm(s) Wᵀ, s), with swiglu (swiglu(rms_norm(s) Wᵀ), s). x, residual [T, in] float32."""
    normed, total = add_rms_norm(x, residual, norm_weight, eps)
    return (_swiglu(linear(normed, w)) if swiglu else linear(normed, w)), total


def linear_bias(x: Tensor, w: LinearWeight, bias: Tensor, residual: Tensor | None = None) -> Tensor:
    """y = x Wᵀ + b, + residual if that is given. x [T, in], b [out], residual [T, out] float32 → [T, out] float32."""
    y = linear(x, w) + bias
    return y if residual is None else y + residual


def linear_gelu(x: Tensor, w: LinearWeight, bias: Tensor, kind: str) -> Tensor:
    """y = gelu(x Wᵀ + b). Shapes as in `ops.linear_gelu`."""
    return gelu(linear_bias(x, w, bias), kind)


def embedding(ids: Tensor, w: EmbeddingWeight) -> Tensor:
    """y[t] = W[ids[t]]. ids [T] int32 → [T, hidden] float32."""
    return xp.from_numpy(as_float32(w.array[xp.to_numpy(ids)]))
