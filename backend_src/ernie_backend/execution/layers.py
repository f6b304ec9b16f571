"""The blocks that decoder models are made of, each a weight or two and an op or two; knows no checkpoint and no whole model.

Activations are [T, hidden]: the T tokens of a step, sequences one after another. Every block takes its weights from `take(name)`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from ernie_kernels import ops
from ernie_kernels.xp import Tensor

from ..config import ModelConfig
from .input_batch import InputBatch
from .kv_cache import LayerCache

Take: TypeAlias = Callable[[str], Any]
"""Hands out the loaded weight of a name (`weight_map.weights`), once."""


class RMSNorm:
    """x / √(mean(x²) + eps) · weight."""

    def __init__(self, eps: float, take: Take, name: str) -> None:
        self.eps = eps
        self.weight: Tensor = take(name)  # [hidden] float32

    def forward(self, x: Tensor) -> Tensor:
        return ops.rms_norm(x, self.weight, self.eps)

    def add_forward(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """(norm of the sum, the sum); `residual` may be overwritten."""
        return ops.add_rms_norm(x, residual, self.weight, self.eps)

    def linear(self, x: Tensor, residual: Tensor | None, w: ops.LinearWeight) -> tuple[Tensor, Tensor]:
        """(norm of the sum times w, the sum); without a residual the sum is x."""
        if residual is None:
            return ops.linear(self.forward(x), w), x
        return ops.add_rms_norm_linear(x, residual, self.weight, self.eps, w)

    def linear_swiglu(self, x: Tensor, residual: Tensor, gate_up: ops.LinearWeight) -> tuple[Tensor, Tensor]:
        """As `linear`, gate and up in one and multiplied."""
        return ops.add_rms_norm_linear(x, residual, self.weight, self.eps, gate_up, swiglu=True)


class Attention:
    """Causal grouped-query attention with rotary positions over the paged cache, of the norm of x + residual."""

    def __init__(self, norm: RMSNorm, config: ModelConfig, take: Take, name: str) -> None:
        self.norm = norm
        self.scale = config.head_dim**-0.5
        self.qkv: ops.LinearWeight = take(name + "qkv")
        self.out: ops.LinearWeight = take(name + "out")

    def forward(self, x: Tensor, residual: Tensor | None, batch: InputBatch, cache: LayerCache, cos_sin: Tensor) -> tuple[Tensor, Tensor]:
        """(the result, x + residual); `residual` is None in front of the first layer."""
        qkv, residual = self.norm.linear(x, residual, self.qkv)
        attended = ops.attention(qkv, cos_sin, batch.positions, batch.slot_mapping, cache.k, cache.v, batch.attention, self.scale)
        return ops.linear(attended, self.out), residual


class GatedMLP:
    """down(silu(gate(y)) ⊙ up(y)), y being the norm of x + residual."""

    def __init__(self, norm: RMSNorm, take: Take, name: str) -> None:
        self.norm = norm
        self.gate_up: ops.LinearWeight = take(name + "gate_up")
        self.down: ops.LinearWeight = take(name + "down")

    def forward(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """(the result, x + residual)."""
        activated, residual = self.norm.linear_swiglu(x, residual, self.gate_up)
        return ops.linear(activated, self.down), residual


class MixtureOfExperts:
    """The k experts that the router chooses for each token, weighted, plus the shared experts for all tokens, where there are any; of the
    norm of x + residual, as in `GatedMLP`."""

    def __init__(self, norm: RMSNorm, config: ModelConfig, take: Take, name: str) -> None:
        self.norm = norm
        self.experts_per_token = config.experts_per_token
        self.norm_min = config.moe_norm_min
        self.gate: Tensor = take(name + "router.gate")  # [num_experts, hidden] float32
        self.bias: Tensor | None = take(name + "router.bias") if config.has_correction_bias else None  # [num_experts] float32
        self.experts: ops.ExpertWeights = take(name + "experts")
        if config.num_shared_experts:  # n side by side are one MLP n times as wide
            self.experts = ops.join_shared_experts(self.experts, take(name + "shared.gate_up"), take(name + "shared.down"))

    def forward(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """(the result, which only `RMSNorm.add_forward` may read (see `ops.moe_experts`); x + residual)."""
        router = (self.gate, self.bias, self.experts_per_token, self.norm_min)
        x, residual, weights, expert_ids = ops.add_rms_norm_route(x, residual, self.norm.weight, self.norm.eps, *router, self.experts)
        return ops.moe_experts(x, weights, expert_ids, self.experts), residual


class Embedding:
    """A row per token id; `tied_head` is the same memory read as the output projection."""

    def __init__(self, take: Take, name: str) -> None:
        self.weight: ops.EmbeddingWeight = take(name)

    def forward(self, token_ids: Tensor) -> Tensor:
        return ops.embedding(token_ids, self.weight)

    def tied_head(self) -> ops.LinearWeight:
        return ops.tied_head(self.weight)
