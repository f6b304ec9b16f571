"""Binds every name of `ops` to the kernels for CPUs; computes nothing itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .. import xp
from ..metadata import AttentionMetadata
from ..reference import linear as reference_linear
from ..reference import sampling
from ..weights import EmbeddingWeight, ExpertWeights, LinearWeight, check_weight
from ..xp import Tensor
from . import attention as attention_kernels
from . import moe, warm
from .elementwise import add_rms_norm, rms_norm, rotary_kv_write, swiglu
from .linear import linear
from .moe import route

__all__ = ["add_rms_norm", "linear", "paged_attention", "rms_norm", "rotary_kv_write", "route", "swiglu"]

warm_up = warm.compile_kernels
paged_attention = attention_kernels.paged_attention
embedding = reference_linear.embedding
lm_head = linear
CACHE_DTYPE = "float32"


def set_batch_invariant(wanted: bool) -> None:
    """Nothing: every operator here is."""


def pack_linear(weight: np.ndarray) -> LinearWeight:
    return LinearWeight(check_weight(weight, 2))


def pack_embedding(weight: np.ndarray) -> EmbeddingWeight:
    return EmbeddingWeight(check_weight(weight, 2))


def pack_experts(gate_up: np.ndarray, down: np.ndarray) -> ExpertWeights:
    return ExpertWeights(check_weight(gate_up, 3), check_weight(down, 3))


def join_shared_experts(experts: ExpertWeights, gate_up: LinearWeight, down: LinearWeight) -> ExpertWeights:
    return replace(experts, shared=(gate_up, down))


def linear_swiglu(x: Tensor, gate_up: LinearWeight) -> Tensor:
    return swiglu(linear(x, gate_up))


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
    q = rotary_kv_write(qkv, cos_sin, positions, slot_mapping, k_cache, v_cache)
    return paged_attention(q, k_cache, v_cache, metadata, scale)


def add_rms_norm_linear(
    x: Tensor, residual: Tensor, norm_weight: Tensor, eps: float, w: LinearWeight, *, swiglu: bool = False
) -> tuple[Tensor, Tensor]:
    normed, total = add_rms_norm(x, residual, norm_weight, eps)
    return (linear_swiglu if swiglu else linear)(normed, w), total


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
    normed, total = add_rms_norm(x, residual, norm_weight, eps)
    return normed, total, *route(normed, gate, bias, k, norm_min)


def moe_experts(x: Tensor, weights: Tensor, expert_ids: Tensor, experts: ExpertWeights) -> Tensor:
    routed = moe.moe_experts(x, weights, expert_ids, experts)
    return routed if experts.shared is None else routed + linear(linear_swiglu(x, experts.shared[0]), experts.shared[1])


def sample(logits: Tensor, inputs: sampling.SamplingInputs) -> sampling.SamplingResult:
    return sampling.sample(xp.host_view(logits), inputs)
