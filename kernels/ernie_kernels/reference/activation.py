"""SwiGLU and the three GELUs; knows no layer."""

from __future__ import annotations

import math

from .. import xp
from ..xp import Tensor


def swiglu(gate_up: Tensor) -> Tensor:
    """y = silu(g) · u with g‖u = gate_up. gate_up [T, 2·I] float32, gate half first → [T, I]."""
    half = gate_up.shape[-1] // 2
    return xp.silu(gate_up[:, :half]) * gate_up[:, half:]


def gelu(x: Tensor, kind: str) -> Tensor:
    """y = x · Φ(x), or one of its approximations. [T, I] float32 → [T, I]. `kind` as config.json spells it: `gelu` is exact,
    `gelu_pytorch_tanh` by tanh, `quick_gelu` = x · σ(1.702 x)."""
    if kind == "gelu":
        return x * 0.5 * (xp.erf(x * math.sqrt(0.5)) + 1.0)
    if kind == "gelu_pytorch_tanh":
        return x * 0.5 * (xp.tanh((x + x * x * x * 0.044715) * math.sqrt(2 / math.pi)) + 1.0)
    assert kind == "quick_gelu", kind
    return x * xp.sigmoid(x * 1.702)
