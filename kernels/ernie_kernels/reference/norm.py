"""RMS and layer normalisation; knows no layer."""

from __future__ import annotations

from .. import xp
from ..xp import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """y = x / √(mean(x²) + eps) · weight. x [T, H], weight [H], float32 → [T, H]."""
    return x * xp.rsqrt(xp.mean(x * x, axis=-1) + eps) * weight


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """s = x + residual; → (rms_norm(s), s). x, residual [T, H], weight [H], float32."""
    total = x + residual
    return rms_norm(total, weight, eps), total


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """y = (x − mean) / √(mean((x − mean)²) + eps) · weight + bias. x [T, H], weight, bias [H], float32 → [T, H]."""
    centred = x - xp.mean(x, axis=-1)
    return centred * xp.rsqrt(xp.mean(centred * centred, axis=-1) + eps) * weight + bias
