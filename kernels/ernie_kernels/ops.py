"""Every operator the models call, under its one name: what it computes, on which shapes; knows no model.

T tokens, R requests, activations float32. Tensors are those of `xp` unless the signature says numpy. Kernels and references agree within
the tolerances of `specs.py`. Every operator is batch-invariant: row t of its result depends on row t of its inputs (for attention, on the
request's own cache) and not on what else is in the step, to the last bit. Ids, positions, slots and block tables in range are the caller's
promise; kernels assert the shapes that their memory safety rests on.
"""

from __future__ import annotations

import numpy as np

from . import xp
from .cpu import attention, elementwise, moe, warm
from .cpu import linear as _linear
from .metadata import AttentionMetadata
from .reference import linear as _reference_linear
from .reference import sampling
from .reference.rotary import rope_table
from .reference.sampling import SamplingInputs, SamplingResult
from .weights import EmbeddingWeight, ExpertWeights, LinearWeight, check_weight
from .xp import Tensor

__all__ = [
    "AttentionMetadata",
    "EmbeddingWeight",
    "ExpertWeights",
    "LinearWeight",
    "SamplingInputs",
    "SamplingResult",
    "add_rms_norm",
    "embedding",
    "linear",
    "moe_experts",
    "pack_embedding",
    "pack_experts",
    "pack_linear",
    "paged_attention",
    "rms_norm",
    "rope_table",
    "rotary_kv_write",
    "route",
    "sample",
    "swiglu",
    "tied_head",
    "warm_up",
]


def warm_up(num_threads: int | None = None) -> None:
    """Compiles every kernel (about 15 s the first time on a machine, then read from a cache) and sets how many threads share the work
    (None: the process's cores). Call it before the first request; kernels are to be called from one thread."""
    warm.compile_kernels(num_threads)


def pack_linear(weight: np.ndarray) -> LinearWeight:
    """Takes over a weight [out, in]: numpy float32, or uint16 bfloat16 bits; no copy if it is contiguous. TypeError: another dtype."""
    return LinearWeight(check_weight(weight, 2))


def pack_embedding(weight: np.ndarray) -> EmbeddingWeight:
    """Takes over an embedding table [vocab, hidden]: numpy float32, or uint16 bfloat16 bits; no copy if it is contiguous."""
    return EmbeddingWeight(check_weight(weight, 2))


def tied_head(w: EmbeddingWeight) -> LinearWeight:
    """The embedding table as the head's weight: the same memory."""
    return LinearWeight(w.array)


def pack_experts(gate_up: np.ndarray, down: np.ndarray) -> ExpertWeights:
    """Takes over one layer's experts: numpy gate_up [E, 2·Im, H] (gate rows first) and down [E, H, Im], each contiguous."""
    return ExpertWeights(check_weight(gate_up, 3), check_weight(down, 3))


def linear(x: Tensor, w: LinearWeight) -> Tensor:
    """y = x Wᵀ. x [T, in] → [T, out]."""
    return _linear.linear(x, w)


def embedding(ids: Tensor, w: EmbeddingWeight) -> Tensor:
    """y[t] = W[ids[t]]. ids [T] int32 → [T, hidden]."""
    return _reference_linear.embedding(ids, w)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """y = x / √(mean(x²) + eps) · weight. x [T, H], weight [H] → [T, H]."""
    return elementwise.rms_norm(x, weight, eps)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """s = x + residual → (rms_norm(s), s). x, residual [T, H], weight [H]."""
    return elementwise.add_rms_norm(x, residual, weight, eps)


def swiglu(gate_up: Tensor) -> Tensor:
    """y = silu(g) · u with g‖u = gate_up. [T, 2·I] → [T, I]."""
    return elementwise.swiglu(gate_up)


def rotary_kv_write(qkv: Tensor, cos_sin: Tensor, positions: Tensor, slot_mapping: Tensor, k_cache: Tensor, v_cache: Tensor) -> Tensor:
    """q, k = rotary(q), rotary(k); k_cache[slot], v_cache[slot] = k, v; returns q.

    qkv [T, (heads + 2·kv) · d], columns q‖k‖v; cos_sin [P, d] from `rope_table`; positions [T] int32 < P; slot_mapping [T] int32, −1 where
    nothing is to be written; caches [num_blocks, block_size, kv, d], changed in place. → [T, heads, d]. Rotation on pairs (2j, 2j + 1):
    (a, b) → (a·cos − b·sin, b·cos + a·sin).
    """
    return elementwise.rotary_kv_write(qkv, cos_sin, positions, slot_mapping, k_cache, v_cache)


def paged_attention(q: Tensor, k_cache: Tensor, v_cache: Tensor, metadata: AttentionMetadata, scale: float) -> Tensor:
    """o = softmax(scale · q Kᵀ + causal mask) V for each request and head.

    q [T, heads, d]; caches [num_blocks, block_size, kv, d]; query head h reads key head h // (heads / kv). A request's query tokens are the
    last of its context, and chunks and single tokens may stand in one step. → [T, heads · d].
    """
    return attention.paged_attention(q, k_cache, v_cache, metadata, scale)


def route(x: Tensor, gate: Tensor, bias: Tensor | None, k: int, norm_min: float) -> tuple[Tensor, Tensor]:
    """p = softmax(x Gᵀ); e = the k largest of p + bias; w = p[e] / max(Σ p[e], norm_min).

    x [T, H], gate [E, H], bias [E] or None → weights [T, k] float32, expert_ids [T, k] int32.
    """
    return moe.route(x, gate, bias, k, norm_min)


def moe_experts(x: Tensor, weights: Tensor, expert_ids: Tensor, experts: ExpertWeights) -> Tensor:
    """y[t] = Σⱼ weights[t, j] · down[e](swiglu(gate_up[e](x[t]))), e = expert_ids[t, j]. x [T, H], weights, expert_ids [T, k] → [T, H]."""
    return moe.moe_experts(x, weights, expert_ids, experts)


def sample(logits: Tensor, inputs: SamplingInputs) -> SamplingResult:
    """token[r] ~ softmax(adjusted logits[r] / temperature) over what min_p, top_k and top_p leave; argmax for greedy rows.

    logits [R, vocab]. See `SamplingInputs` for the parameters, `reference/sampling.py` for the order of things.
    """
    return sampling.sample(xp.host_view(logits), inputs)
