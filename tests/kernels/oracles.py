"""Every operator again in plain numpy float64, written from the published maths and not from the references."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ernie_kernels import xp


def wide(x: Any) -> np.ndarray:
    """Any tensor or weight array as float64 (integers stay integers)."""
    array = x if isinstance(x, np.ndarray) else xp.to_numpy(x)
    if array.dtype == np.uint16:
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float64) if array.dtype == np.float32 else array


def linear(x, w) -> list[np.ndarray]:
    return [np.einsum("ti,oi->to", wide(x), wide(w.array))]


def embedding(ids, w) -> list[np.ndarray]:
    return [np.stack([wide(w.array)[i] for i in wide(ids)])]


def rms_norm(x, weight, eps) -> list[np.ndarray]:
    rows = wide(x)
    return [np.stack([row / math.sqrt(np.dot(row, row) / len(row) + eps) * wide(weight) for row in rows])]


def add_rms_norm(x, residual, weight, eps) -> list[np.ndarray]:
    total = wide(x) + wide(residual)
    return [*rms_norm(total, weight, eps), total]


def swiglu(gate_up) -> list[np.ndarray]:
    gate, up = np.split(wide(gate_up), 2, axis=1)
    return [gate / (1 + np.exp(-gate)) * up]


_gated = swiglu


def add_rms_norm_linear(x, residual, norm_weight, eps, w, swiglu) -> list[np.ndarray]:
    normed, total = add_rms_norm(x, residual, norm_weight, eps)
    product = np.einsum("ti,oi->to", normed, wide(w.array))
    return [*(_gated(product) if swiglu else [product]), total]


def rotate(vector: np.ndarray, position: int, theta: float = 500000.0) -> np.ndarray:
    """Each pair (2j, 2j + 1) as a complex number, turned by position · theta^(−2j/d)."""
    dim = len(vector)
    turned = (vector[0::2] + 1j * vector[1::2]) * np.exp(1j * position * theta ** (-np.arange(0, dim, 2) / dim))
    return np.stack([turned.real, turned.imag], axis=1).ravel()


def rotary_kv_write(qkv, cos_sin, positions, slot_mapping, k_cache, v_cache) -> list[np.ndarray]:
    k_cache, v_cache = wide(k_cache), wide(v_cache)
    _, block_size, num_kv_heads, dim = k_cache.shape
    heads = wide(qkv).reshape(len(wide(qkv)), -1, dim)
    num_heads = heads.shape[1] - 2 * num_kv_heads
    queries = np.empty((len(heads), num_heads, dim))
    for t, (position, slot) in enumerate(zip(wide(positions), wide(slot_mapping), strict=True)):
        queries[t] = [rotate(head, int(position)) for head in heads[t, :num_heads]]
        if slot >= 0:
            place = (slot // block_size, slot % block_size)
            k_cache[place] = [rotate(head, int(position)) for head in heads[t, num_heads : num_heads + num_kv_heads]]
            v_cache[place] = heads[t, num_heads + num_kv_heads :]
    return [queries, k_cache, v_cache]


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


def paged_attention(q, k_cache, v_cache, metadata, scale) -> list[np.ndarray]:
    q, k_cache, v_cache = wide(q), wide(k_cache), wide(v_cache)
    _, block_size, num_kv_heads, dim = k_cache.shape
    num_heads = q.shape[1]
    output = np.empty((len(q), num_heads * dim))
    bounds = metadata.cu_seqlens_q_host
    for request, context_len in enumerate(metadata.context_lens_host):
        slots = [(metadata.block_tables_host[request, j // block_size], j % block_size) for j in range(context_len)]
        for t in range(bounds[request], bounds[request + 1]):
            seen = context_len - (bounds[request + 1] - 1 - t)
            for head in range(num_heads):
                kv_head = head * num_kv_heads // num_heads
                weights = softmax(np.array([k_cache[s][kv_head] @ q[t, head] for s in slots[:seen]]) * scale)
                mixed = sum(w * v_cache[s][kv_head] for w, s in zip(weights, slots[:seen], strict=True))
                output[t, head * dim : (head + 1) * dim] = mixed
    return [output]


def route(x, gate, bias, k, norm_min) -> list[np.ndarray]:
    weights, ids = [], []
    for row in wide(x):
        p = softmax(wide(gate) @ row)
        chosen = np.argsort(-(p + (0 if bias is None else wide(bias))), kind="stable")[:k]
        ids.append(chosen)
        weights.append(p[chosen] / max(p[chosen].sum(), norm_min))
    return [np.array(weights), np.array(ids)]


def moe_experts(x, weights, expert_ids, experts) -> list[np.ndarray]:
    gate_up, down = wide(experts.gate_up), wide(experts.down)
    output = np.zeros(x.shape)
    for t, row in enumerate(wide(x)):
        for weight, expert in zip(wide(weights)[t], wide(expert_ids)[t], strict=True):
            output[t] += weight * (down[expert] @ swiglu((gate_up[expert] @ row)[None])[0][0])
    return [output]


def linear_bias(x, w, bias, residual) -> list[np.ndarray]:
    return [linear(x, w)[0] + wide(bias) + (0 if residual is None else wide(residual))]


def linear_gelu(x, w, bias, kind) -> list[np.ndarray]:
    (values,) = linear_bias(x, w, bias, None)
    if kind == "gelu":
        return [np.vectorize(lambda v: v * 0.5 * math.erfc(-v / math.sqrt(2)))(values)]
    if kind == "quick_gelu":
        return [values / (1 + np.exp(-1.702 * values))]
    return [np.vectorize(lambda v: v / (1 + math.exp(-2 * math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))))(values)]  # tanh as a logistic


def layer_norm(x, weight, bias, eps) -> list[np.ndarray]:
    rows = wide(x)
    return [np.stack([(row - row.mean()) / math.sqrt(row.var() + eps) * wide(weight) + wide(bias) for row in rows])]


def rope_rows(cos_sin, positions, axes) -> list[np.ndarray]:
    angles = wide(positions).T[:, list(axes)] * 500000.0 ** (-np.arange(len(axes)) / len(axes))
    return [np.concatenate([np.cos(angles), np.sin(angles)], axis=1)]


def vision_attention(qkv, cos_sin, num_heads, scale) -> list[np.ndarray]:
    cos_sin = wide(cos_sin)
    patches, dim = cos_sin.shape
    phase = cos_sin[:, : dim // 2] + 1j * cos_sin[:, dim // 2 :]

    def turned(head: np.ndarray) -> np.ndarray:  # [patches, d]: each pair of halves as a complex number
        complex_head = (head[:, : dim // 2] + 1j * head[:, dim // 2 :]) * phase
        return np.concatenate([complex_head.real, complex_head.imag], axis=1)

    frames = wide(qkv).reshape(-1, patches, 3, num_heads, dim)
    output = np.empty((len(frames), patches, num_heads, dim))
    for t, frame in enumerate(frames):
        for head in range(num_heads):
            q, k = turned(frame[:, 0, head]), turned(frame[:, 1, head])
            for i in range(patches):
                output[t, i, head] = softmax(k @ q[i] * scale) @ frame[:, 2, head]
    return [output.reshape(len(frames) * patches, num_heads * dim)]


def moe_by_modality(x, rows, routed, k, norm_min) -> list[np.ndarray]:
    output = np.zeros(x.shape)
    for where, group in zip(rows, routed, strict=True):
        for t in wide(where):
            row = wide(x)[t : t + 1]
            weights, ids = route(row, group.gate, group.bias, k, norm_min)
            output[t] = moe_experts(row, weights, ids, group.experts)[0][0]
    return [output]


def normalize_pixels(pixels, mean, std) -> list[np.ndarray]:
    return [(wide(pixels) / 255 - wide(mean)) / wide(std)]
