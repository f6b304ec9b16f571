"""SwiGLU; knows no layer."""

from __future__ import annotations

from .. import xp
from ..xp import Tensor


def swiglu(gate_up: Tensor) -> Tensor:
    """y = silu(g) · u with g‖u = gate_up. gate_up [T, 2·I] float32, gate half first → [T, I]."""
    half = gate_up.shape[-1] // 2
    return xp.silu(gate_up[:, :half]) * gate_up[:, half:]
