"""The router and the experts of a mixture layer; knows no shared expert and no layer."""

from __future__ import annotations

import numpy as np
from numba import prange

from .. import xp
from ..weights import ExpertWeights
from ..xp import Tensor
from .compile import CONTRACT, kernel, num_threads
from .elementwise import swiglu_into
from .linear import grouped_linear_into, linear_into
from .maths import exp

_TOKENS_AT_ONCE = 512
"""Bounds the scratch memory of a long prompt: 512 tokens × 6 experts × 3072 × 4 bytes are 38 MB."""
_ZERO = np.float32(0)


def route(x: Tensor, gate: Tensor, bias: Tensor | None, k: int, norm_min: float) -> tuple[Tensor, Tensor]:
    """p = softmax(x Gᵀ); e = the k largest of p + bias; w = p[e] / max(Σ p[e], norm_min). Shapes as in `ops.route`."""
    num_tokens, num_experts = x.shape[0], gate.shape[0]
    assert 1 <= k <= num_experts
    weights, expert_ids = xp.empty([num_tokens, k], "float32"), xp.empty([num_tokens, k], "int32")
    logits = np.empty((num_tokens, num_experts), np.float32)
    linear_into(xp.host_view(xp.contiguous(x)), xp.host_view(gate), logits)
    bias_array = np.zeros(num_experts, np.float32) if bias is None else xp.host_view(bias)
    _choose_experts(logits, bias_array, np.float32(norm_min), xp.host_view(weights), xp.host_view(expert_ids))
    return weights, expert_ids


@kernel()
def _choose_experts(logits, bias, norm_min, weights, expert_ids):
    """From the router's logits, which become probabilities. Of equal candidates the lower id is chosen."""
    num_tokens, num_experts = logits.shape
    k = weights.shape[1]
    free = np.empty(num_experts, np.float32)
    for t in range(num_tokens):
        p = logits[t]
        largest = p.max()
        total = _ZERO
        for e in range(num_experts):
            p[e] = exp(p[e] - largest)
            total += p[e]
        for e in range(num_experts):
            p[e] /= total
            free[e] = p[e] + bias[e]
        total = _ZERO
        for j in range(k):
            best = np.argmax(free)
            free[best] = -np.inf
            expert_ids[t, j] = best
            weights[t, j] = p[best]
            total += p[best]
        for j in range(k):
            weights[t, j] /= max(total, norm_min)


def moe_experts(x: Tensor, weights: Tensor, expert_ids: Tensor, experts: ExpertWeights) -> Tensor:
    """y[t] = Σⱼ weights[t, j] · down[e](swiglu(gate_up[e](x[t]))), e = expert_ids[t, j]. Shapes as in `ops.moe_experts`."""
    y = xp.empty(x.shape, "float32")
    inputs = [xp.host_view(xp.contiguous(a)) for a in (x, weights, expert_ids)]
    outputs = xp.host_view(y)
    for start in range(0, x.shape[0], _TOKENS_AT_ONCE):
        stop = start + _TOKENS_AT_ONCE
        chunk = [a[start:stop] for a in inputs]
        _moe_experts(chunk[0], chunk[1], chunk[2], experts, outputs[start:stop])
    return y


def _moe_experts(x: np.ndarray, weights: np.ndarray, expert_ids: np.ndarray, experts: ExpertWeights, y: np.ndarray) -> None:
    """Sorts the (token, expert) pairs by expert, multiplies each expert with its rows, and brings the rows back to their tokens."""
    k = expert_ids.shape[1]
    flat = expert_ids.ravel()
    order = np.argsort(flat, kind="stable")
    starts = np.searchsorted(flat[order], np.arange(experts.num_experts + 1))
    hidden = np.empty((len(flat), experts.gate_up.shape[1]), np.float32)
    grouped_linear_into(x[order // k], experts.gate_up, starts, hidden)
    activated = np.empty((len(flat), experts.down.shape[2]), np.float32)
    swiglu_into(hidden, activated)
    results = np.empty((len(flat), experts.down.shape[1]), np.float32)
    grouped_linear_into(activated, experts.down, starts, results)
    row_of_pair = np.empty_like(order)
    row_of_pair[order] = np.arange(len(order))
    _combine(results, row_of_pair.reshape(-1, k), weights, y, num_threads())


@kernel(parallel=True)
def _combine(results, rows, weights, y, parts):
    """y[t] = Σⱼ weights[t, j] · results[rows[t, j]], in the order of j: whoever shares the batch, the sum is taken alike."""
    num_tokens = len(y)
    for part in prange(parts):
        for t in range(num_tokens * part // parts, num_tokens * (part + 1) // parts):
            y[t] = _ZERO
            for j in range(weights.shape[1]):
                _add_scaled(weights[t, j], results[rows[t, j]], y[t])


@kernel(fastmath=CONTRACT)
def _add_scaled(weight, x, y):
    for i in range(len(y)):
        y[i] += weight * x[i]
