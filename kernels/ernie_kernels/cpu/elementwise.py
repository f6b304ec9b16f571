"""RMS normalisation, SwiGLU, and rotary embedding with the cache write; knows no layer."""

from __future__ import annotations

import numpy as np
from numba import prange

from .. import xp
from ..xp import Tensor
from .compile import CONTRACT, kernel, num_threads
from .maths import exp
from .tile import dot_tile

_ONE = np.float32(1)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """y = x / √(mean(x²) + eps) · weight. x [T, H], weight [H], float32 → [T, H]."""
    return add_rms_norm(x, xp.zeros(x.shape, "float32"), weight, eps)[0]


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """s = x + residual; → (rms_norm(s), s). x, residual [T, H], weight [H], float32."""
    y, total = xp.empty(x.shape, "float32"), xp.empty(x.shape, "float32")
    arrays = [xp.host_view(xp.contiguous(a)) for a in (x, residual, weight)]
    assert arrays[0].shape == arrays[1].shape and arrays[0].shape[1:] == arrays[2].shape
    _add_rms_norm(*arrays, np.float32(eps), xp.host_view(y), xp.host_view(total), num_threads())
    return y, total


@kernel()
def _add_rows(a, b, total):
    for i in range(len(total)):
        total[i] = a[i] + b[i]


@kernel()
def _scale_row(x, scale, weight, y):
    for i in range(len(y)):
        y[i] = x[i] * scale * weight[i]


@kernel(parallel=True)
def _add_rms_norm(x, residual, weight, eps, y, total, parts):
    num_tokens, width = x.shape
    for part in prange(parts):
        square = np.empty(1, np.float32)
        for t in range(num_tokens * part // parts, num_tokens * (part + 1) // parts):
            _add_rows(x[t], residual[t], total[t])
            dot_tile(total, t * width, 0, total, t * width, 0, width, square, 0, 0, 1, 1)
            _scale_row(total[t], _ONE / np.sqrt(square[0] / np.float32(width) + eps), weight, y[t])


def swiglu(gate_up: Tensor) -> Tensor:
    """y = silu(g) · u with g‖u = gate_up. gate_up [T, 2·I] float32, gate half first → [T, I]."""
    y = xp.empty([gate_up.shape[0], gate_up.shape[1] // 2], "float32")
    swiglu_into(xp.host_view(xp.contiguous(gate_up)), xp.host_view(y))
    return y


def swiglu_into(gate_up: np.ndarray, y: np.ndarray) -> None:
    """`swiglu` on arrays."""
    assert gate_up.shape == (y.shape[0], 2 * y.shape[1])
    _swiglu(gate_up, y, num_threads())


@kernel(fastmath=CONTRACT)
def _swiglu_row(gate, up, y):
    for i in range(len(y)):
        y[i] = gate[i] / (_ONE + exp(-gate[i])) * up[i]


@kernel(parallel=True)
def _swiglu(gate_up, y, parts):
    num_tokens, width = y.shape
    for part in prange(parts):
        # Divided by columns, so that one token keeps all threads busy.
        start, stop = width * part // parts, width * (part + 1) // parts
        for t in range(num_tokens):
            _swiglu_row(gate_up[t, start:stop], gate_up[t, width + start : width + stop], y[t, start:stop])


def rotary_kv_write(qkv: Tensor, cos_sin: Tensor, positions: Tensor, slot_mapping: Tensor, k_cache: Tensor, v_cache: Tensor) -> Tensor:
    """q, k = rotary(q), rotary(k); caches[slot] = k, v. Shapes as in `ops.rotary_kv_write`."""
    num_kv_heads, head_dim = k_cache.shape[2:]
    num_tokens = qkv.shape[0]
    num_heads = qkv.shape[1] // head_dim - 2 * num_kv_heads
    q = xp.empty([num_tokens, num_heads, head_dim], "float32")
    inputs = [xp.host_view(xp.contiguous(a)) for a in (qkv, cos_sin, positions, slot_mapping)]
    assert inputs[1].shape[1] == head_dim and len(inputs[2]) == len(inputs[3]) == num_tokens and k_cache.shape == v_cache.shape
    _rotary_kv_write(*inputs, xp.host_view(k_cache), xp.host_view(v_cache), xp.host_view(q), num_threads())
    return q


@kernel(fastmath=CONTRACT)
def _rotate(row, start, cos_sin, out):
    half = out.shape[0] // 2
    for j in range(half):
        a, b = row[start + 2 * j], row[start + 2 * j + 1]
        cos, sin = cos_sin[j], cos_sin[half + j]
        out[2 * j] = a * cos - b * sin
        out[2 * j + 1] = b * cos + a * sin


@kernel(parallel=True)
def _rotary_kv_write(qkv, cos_sin, positions, slots, k_cache, v_cache, q, parts):
    num_tokens, num_heads, head_dim = q.shape
    _, block_size, num_kv_heads, _ = k_cache.shape
    for part in prange(parts):
        for t in range(num_tokens * part // parts, num_tokens * (part + 1) // parts):
            row, table, slot = qkv[t], cos_sin[positions[t]], slots[t]
            for head in range(num_heads):
                _rotate(row, head * head_dim, table, q[t, head])
            if slot >= 0:
                for head in range(num_kv_heads):
                    start = (num_heads + head) * head_dim
                    _rotate(row, start, table, k_cache[slot // block_size, slot % block_size, head])
                    values = v_cache[slot // block_size, slot % block_size, head]
                    for i in range(head_dim):
                        values[i] = row[start + num_kv_heads * head_dim + i]
