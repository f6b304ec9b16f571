"""What a vision tower does to patches: pixels to numbers, and attention of every patch of a frame to every other; knows no layer."""

from __future__ import annotations

import numpy as np

from .. import xp
from ..xp import Tensor

_QUERIES_AT_ONCE = 256
"""Bounds the scores: 16 heads × 256 × 8192 keys × 4 bytes are 134 MB."""


def normalize_pixels(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """y = (x / 255 − mean) / std. pixels [N, W] uint8; mean, std [W] float32 → [N, W]."""
    return (xp.cast(pixels, "float32") / 255.0 - mean) / std


def axial_rope_table(head_dim: int, theta: float, rows: np.ndarray, columns: np.ndarray) -> Tensor:
    """cos ‖ sin, float32 [S, head_dim], of each patch's angles: row · f, then column · f, f = theta^(−4i / head_dim), i < head_dim / 4.

    rows, columns: int [S], the patches' places in the picture, in the order of the patches.
    """
    frequencies = theta ** (-np.arange(0, head_dim, 4, dtype=np.float64) / head_dim)
    angles = np.concatenate([rows[:, None] * frequencies, columns[:, None] * frequencies], axis=1)
    return xp.from_numpy(np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32))


def rotate_halves(x: Tensor, cos_sin: Tensor) -> Tensor:
    """(a, b) → (a·cos − b·sin, b·cos + a·sin) for a = x[…, j], b = x[…, j + d/2]. x [T, S, heads, d], cos_sin [S, d] → as x."""
    half = x.shape[-1] // 2
    cos = xp.reshape(cos_sin[:, :half], [1, -1, 1, half])
    sin = xp.reshape(cos_sin[:, half:], [1, -1, 1, half])
    a, b = x[:, :, :, :half], x[:, :, :, half:]
    return xp.concat([a * cos - b * sin, b * cos + a * sin], axis=3)


def rotated_qkv(qkv: Tensor, cos_sin: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """q, k turned, and v, each [T, S, heads, d], of qkv [T · S, 3 · heads · d]."""
    patches, head_dim = cos_sin.shape
    parts = xp.reshape(qkv, [-1, patches, 3, num_heads, head_dim])
    return rotate_halves(parts[:, :, 0], cos_sin), rotate_halves(parts[:, :, 1], cos_sin), parts[:, :, 2]


def vision_attention(qkv: Tensor, cos_sin: Tensor, num_heads: int, scale: float) -> Tensor:
    """o = softmax(scale · rotary(q) rotary(k)ᵀ) v within each frame and head. Shapes as in `ops.vision_attention`."""
    q, k, v = (xp.transpose(x, (0, 2, 1, 3)) for x in rotated_qkv(qkv, cos_sin, num_heads))  # [T, heads, S, d]
    frames, _, patches, head_dim = q.shape
    keys = xp.transpose(k, (0, 1, 3, 2))
    outputs = []
    for start in range(0, patches, _QUERIES_AT_ONCE):
        weights = xp.softmax(xp.matmul(q[:, :, start : start + _QUERIES_AT_ONCE], keys) * scale, axis=-1)
        outputs.append(xp.matmul(weights, v))
    output = xp.transpose(xp.concat(outputs, axis=2), (0, 2, 1, 3))
    return xp.reshape(output, [frames * patches, num_heads * head_dim])
