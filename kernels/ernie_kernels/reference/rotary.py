"""Rotary position embedding on interleaved pairs (2j, 2j + 1), as ERNIE-4.5's language models use it; knows no cache layout."""

from __future__ import annotations

import numpy as np

from .. import xp
from ..xp import Tensor
from .kv_cache import write_kv_cache


def rope_table(head_dim: int, theta: float, max_positions: int) -> Tensor:
    """cos ‖ sin of p · theta^(−2j / head_dim), in float64, then cast. → float32 [max_positions, head_dim]: j = 0 … head_dim/2 − 1 twice."""
    frequencies = theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    angles = np.arange(max_positions, dtype=np.float64)[:, None] * frequencies
    return xp.from_numpy(np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32))


def rope_rows(cos_sin: Tensor, positions: Tensor, axes: tuple[int, ...]) -> Tensor:
    """row t, frequency j: cos_sin[positions[axes[j], t], j]. Shapes as in `ops.rope_rows`."""
    of_axis = np.array([[axis == a for axis in axes] * 2 for a in range(3)], np.float32)
    rows = [xp.take(cos_sin, positions[a], axis=0) * xp.from_numpy(of_axis[a : a + 1]) for a in range(3)]  # the others are exact zeros
    return rows[0] + rows[1] + rows[2]


def apply_rotary(x: Tensor, cos_sin: Tensor, positions: Tensor) -> Tensor:
    """(a, b) → (a·cos − b·sin, b·cos + a·sin) for each pair. x [T, heads, d], cos_sin [P, d], positions int32 [T] → [T, heads, d]."""
    num_tokens, num_heads, head_dim = x.shape
    half = head_dim // 2
    table = xp.reshape(xp.take(cos_sin, positions, axis=0), [num_tokens, 1, 2, half])
    cos, sin = table[:, :, 0], table[:, :, 1]
    pairs = xp.reshape(x, [num_tokens, num_heads, half, 2])
    a, b = pairs[:, :, :, 0], pairs[:, :, :, 1]
    rotated = [xp.reshape(part, [num_tokens, num_heads, half, 1]) for part in (a * cos - b * sin, b * cos + a * sin)]
    return xp.reshape(xp.concat(rotated, axis=3), [num_tokens, num_heads, head_dim])


def rotary_kv_write(qkv: Tensor, cos_sin: Tensor, positions: Tensor, slot_mapping: Tensor, k_cache: Tensor, v_cache: Tensor) -> Tensor:
    """q, k = rotary(q), rotary(k); caches[slot] = k, v. Shapes as in `ops.rotary_kv_write`."""
    num_tokens = qkv.shape[0]
    num_kv_heads, head_dim = k_cache.shape[2:]
    heads = xp.reshape(qkv, [num_tokens, -1, head_dim])
    num_heads = heads.shape[1] - 2 * num_kv_heads
    q_and_k = apply_rotary(heads[:, : num_heads + num_kv_heads], cos_sin, positions)
    write_kv_cache(q_and_k[:, num_heads:], heads[:, num_heads + num_kv_heads :], slot_mapping, k_cache, v_cache)
    return q_and_k[:, :num_heads]
