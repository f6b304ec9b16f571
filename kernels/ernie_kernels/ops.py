"""Every operator the models call, under its one name: what it computes, on which shapes; knows no model.

T tokens, R requests. Tensors are those of `xp` unless the signature says numpy. On the CPU activations are float32, kernels and references
agree within the tolerances of `specs.py`, and every operator is batch-invariant: row t of its result depends on row t of its inputs (for
attention, on the request's own cache) and not on what else is in the step, to the last bit. On a GPU activations and caches are bfloat16,
sums float32, and the order of a sum depends on how many tokens the step has unless `set_batch_invariant` was called. Ids, positions, slots
and block tables in range are the caller's promise; kernels assert the shapes that their memory safety rests on.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import xp
from .metadata import AttentionMetadata
from .reference.rotary import rope_table
from .reference.sampling import SamplingInputs, SamplingResult
from .weights import EmbeddingWeight, ExpertWeights, LinearWeight
from .xp import Tensor

__all__ = [
    "AttentionMetadata",
    "EmbeddingWeight",
    "ExpertWeights",
    "LinearWeight",
    "SamplingInputs",
    "SamplingResult",
    "add_rms_norm",
    "add_rms_norm_linear",
    "add_rms_norm_route",
    "attention",
    "cache_dtype",
    "embedding",
    "join_shared_experts",
    "linear",
    "linear_swiglu",
    "lm_head",
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
    "set_batch_invariant",
    "swiglu",
    "tied_head",
    "warm_up",
]


def _choose() -> Any:
    """The module whose functions run on this process's device."""
    if xp.on_gpu:
        from . import gpu

        return gpu
    from .cpu import operators

    return operators


_device = _choose()

cache_dtype: str = _device.CACHE_DTYPE
"""Of keys and values in the cache, as `attention` wants them."""


def warm_up(num_threads: int | None = None) -> None:
    """CPU: compiles every kernel (about 15 s the first time on a machine, then read from a cache) and sets how many threads share the work
    (None: the process's cores). GPU: nothing; its kernels are compiled when a shape first needs them. Call it before the first request;
    kernels are to be called from one thread."""
    _device.warm_up(num_threads)


def set_batch_invariant(wanted: bool) -> None:
    """GPU: from now on the order of every sum is the same however many tokens a step has, for all of this process; slower (PERFORMANCE.md).
    CPU: nothing; it always is. Graphs keep what they were captured with."""
    _device.set_batch_invariant(wanted)


def pack_linear(weight: np.ndarray) -> LinearWeight:
    """Takes over a weight [out, in]: numpy float32, or uint16 bfloat16 bits; on the CPU no copy if it is contiguous, on a GPU a bfloat16
    copy. TypeError: another dtype."""
    return _device.pack_linear(weight)


def pack_embedding(weight: np.ndarray) -> EmbeddingWeight:
    """Takes over an embedding table [vocab, hidden]: numpy float32, or uint16 bfloat16 bits."""
    return _device.pack_embedding(weight)


def tied_head(w: EmbeddingWeight) -> LinearWeight:
    """The embedding table as the head's weight: the same memory."""
    return LinearWeight(w.array)


def pack_experts(gate_up: np.ndarray, down: np.ndarray) -> ExpertWeights:
    """Takes over one layer's experts: numpy gate_up [E, 2·Im, H] (gate rows first) and down [E, H, Im], each contiguous."""
    return _device.pack_experts(gate_up, down)


def join_shared_experts(experts: ExpertWeights, gate_up: LinearWeight, down: LinearWeight) -> ExpertWeights:
    """`experts` and, serving every token with weight 1, a SwiGLU whose width is a multiple of theirs."""
    return _device.join_shared_experts(experts, gate_up, down)


def linear(x: Tensor, w: LinearWeight) -> Tensor:
    """y = x Wᵀ. x [T, in] → [T, out]."""
    return _device.linear(x, w)


def lm_head(x: Tensor, w: LinearWeight, out: Tensor | None = None) -> Tensor:
    """`linear` in float32, into `out` if that is given (GPU only)."""
    return _device.lm_head(x, w) if out is None else _device.lm_head(x, w, out)


def linear_swiglu(x: Tensor, gate_up: LinearWeight) -> Tensor:
    """y = swiglu(x Wᵀ). x [T, in], W [2·I, in] → [T, I]."""
    return _device.linear_swiglu(x, gate_up)


def embedding(ids: Tensor, w: EmbeddingWeight) -> Tensor:
    """y[t] = W[ids[t]]. ids [T] int32 → [T, hidden]."""
    return _device.embedding(ids, w)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """y = x / √(mean(x²) + eps) · weight. x [T, H], weight [H] → [T, H]."""
    return _device.rms_norm(x, weight, eps)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """s = x + residual → (rms_norm(s), s). x, residual [T, H], weight [H]; on a GPU s takes residual's memory, and x may be what
    `moe_experts` returned."""
    return _device.add_rms_norm(x, residual, weight, eps)


def add_rms_norm_linear(
    x: Tensor, residual: Tensor, norm_weight: Tensor, eps: float, w: LinearWeight, *, swiglu: bool = False
) -> tuple[Tensor, Tensor]:
    """`add_rms_norm`, then `linear` (or `linear_swiglu`) of the normed: (the product, the sum). x may be what `moe_experts` returned."""
    return _device.add_rms_norm_linear(x, residual, norm_weight, eps, w, swiglu=swiglu)


def swiglu(gate_up: Tensor) -> Tensor:
    """y = silu(g) · u with g‖u = gate_up. [T, 2·I] → [T, I]."""
    return _device.swiglu(gate_up)


def rotary_kv_write(qkv: Tensor, cos_sin: Tensor, positions: Tensor, slot_mapping: Tensor, k_cache: Tensor, v_cache: Tensor) -> Tensor:
    """q, k = rotary(q), rotary(k); k_cache[slot], v_cache[slot] = k, v; returns q.

    qkv [T, (heads + 2·kv) · d], columns q‖k‖v; cos_sin [P, d] from `rope_table`; positions [T] int32 < P; slot_mapping [T] int32, −1 where
    nothing is to be written; caches [num_blocks, block_size, kv, d], changed in place. → [T, heads, d]. Rotation on pairs (2j, 2j + 1):
    (a, b) → (a·cos − b·sin, b·cos + a·sin).
    """
    return _device.rotary_kv_write(qkv, cos_sin, positions, slot_mapping, k_cache, v_cache)


def paged_attention(q: Tensor, k_cache: Tensor, v_cache: Tensor, metadata: AttentionMetadata, scale: float) -> Tensor:
    """o = softmax(scale · q Kᵀ + causal mask) V for each request and head.

    q [T, heads, d]; caches [num_blocks, block_size, kv, d]; query head h reads key head h // (heads / kv). A request's query tokens are the
    last of its context, and chunks and single tokens may stand in one step. → [T, heads · d].
    """
    return _device.paged_attention(q, k_cache, v_cache, metadata, scale)


def attention(
    qkv: Tensor,
    cos_sin: Tensor,
    positions: Tensor,
    slot_mapping: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    metadata: AttentionMetadata,
    scale: float,
) -> Tensor:
    """`rotary_kv_write`, then `paged_attention` of its result. [T, (heads + 2·kv) · d] → [T, heads · d]."""
    return _device.attention(qkv, cos_sin, positions, slot_mapping, k_cache, v_cache, metadata, scale)


def route(x: Tensor, gate: Tensor, bias: Tensor | None, k: int, norm_min: float) -> tuple[Tensor, Tensor]:
    """p = softmax(x Gᵀ); e = the k largest of p + bias; w = p[e] / max(Σ p[e], norm_min).

    x [T, H], gate [E, H], bias [E] or None → weights [T, k] float32, expert_ids [T, k] int32.
    """
    return _device.route(x, gate, bias, k, norm_min)


def add_rms_norm_route(
    x: Tensor,
    residual: Tensor,
    norm_weight: Tensor,
    eps: float,
    gate: Tensor,
    bias: Tensor | None,
    k: int,
    norm_min: float,
    experts: ExpertWeights,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`add_rms_norm`, then `route` of the normed: (normed, sum, weights, expert_ids). `experts` are those that come next: a GPU fetches
    meanwhile what of them does not depend on the routing."""
    return _device.add_rms_norm_route(x, residual, norm_weight, eps, gate, bias, k, norm_min, experts)


def moe_experts(x: Tensor, weights: Tensor, expert_ids: Tensor, experts: ExpertWeights) -> Tensor:
    """y[t] = Σⱼ weights[t, j] · down[e](swiglu(gate_up[e](x[t]))), e = expert_ids[t, j]. x [T, H], weights, expert_ids [T, k] → [T, H].

    Shared experts that were joined add theirs. On a GPU the sum is left to `add_rms_norm`, the only operator that takes what this returns.
    """
    return _device.moe_experts(x, weights, expert_ids, experts)


def sample(logits: Tensor, inputs: SamplingInputs) -> SamplingResult:
    """token[r] ~ softmax(adjusted logits[r] / temperature) over what min_p, top_k and top_p leave; argmax for greedy rows.

    logits [R, vocab]. See `SamplingInputs` for the parameters, `reference/sampling.py` for the order of things.
    """
    return _device.sample(logits, inputs)
