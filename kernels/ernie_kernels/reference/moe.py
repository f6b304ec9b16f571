"""The router and the experts of a mixture layer; knows no shared expert and no layer."""

from __future__ import annotations

import numpy as np

from .. import xp
from ..weights import ExpertWeights, LinearWeight, RoutedExperts
from ..xp import Tensor
from .activation import swiglu
from .linear import linear


def route(x: Tensor, gate: Tensor, bias: Tensor | None, k: int, norm_min: float) -> tuple[Tensor, Tensor]:
    """p = softmax(x Gᵀ); e = the k largest of p + bias; w = p[e] / max(Σ p[e], norm_min). Shapes as in `ops.route`."""
    return choose_experts(xp.matmul(x, xp.transpose(gate, (1, 0))), bias, k, norm_min)


def choose_experts(logits: Tensor, bias: Tensor | None, k: int, norm_min: float) -> tuple[Tensor, Tensor]:
    """`route` from the router's logits [T, E] on. The bias decides who is chosen, never what a chosen expert weighs."""
    probabilities = xp.softmax(logits, axis=-1)
    _, expert_ids = xp.topk(probabilities if bias is None else probabilities + bias, k)
    chosen = xp.take_along(probabilities, expert_ids, axis=-1)
    return chosen / xp.clip_min(xp.sum(chosen, axis=-1), norm_min), expert_ids


def moe_experts(x: Tensor, weights: Tensor, expert_ids: Tensor, experts: ExpertWeights) -> Tensor:
    """y[t] = Σⱼ weights[t, j] · down[e](swiglu(gate_up[e](x[t]))), e = expert_ids[t, j]. Shapes as in `ops.moe_experts`."""
    output = xp.zeros(x.shape, "float32")
    chosen = xp.to_numpy(expert_ids)
    k = chosen.shape[1]
    flat_weights = xp.reshape(weights, [-1, 1])
    for expert in np.unique(chosen):
        tokens, ranks = np.nonzero(chosen == expert)
        rows = xp.from_numpy(tokens.astype(np.int32))
        hidden = swiglu(linear(xp.take(x, rows, axis=0), LinearWeight(experts.gate_up[expert])))
        scale = xp.take(flat_weights, xp.from_numpy((tokens * k + ranks).astype(np.int32)), axis=0)
        xp.add_at_(output, rows, linear(hidden, LinearWeight(experts.down[expert])) * scale)
    return output


def moe_by_modality(x: Tensor, rows: tuple[Tensor, ...], routed: tuple[RoutedExperts, ...], k: int, norm_min: float) -> Tensor:
    """Every token through the router and the experts of its kind: rows[m] through routed[m]. Shapes as in `ops.moe_by_modality`."""
    output = xp.zeros(x.shape, "float32")
    for where, group in zip(rows, routed, strict=True):
        if where.shape[0]:
            part = xp.take(x, where, axis=0)
            xp.put_(output, where, moe_experts(part, *route(part, group.gate, group.bias, k, norm_min), group.experts))
    return output
