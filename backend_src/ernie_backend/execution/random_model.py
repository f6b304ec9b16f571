"""A full-size model with random weights made where they are used, so that measuring needs no checkpoint; reads no file."""

from __future__ import annotations

import math

from ernie_kernels import ops, xp

from ..config import ModelConfig
from .layers import Take
from .models.ernie45 import Ernie45ForCausalLM
from .weight_map import Kind, weights

STANDARD_DEVIATION = 0.02


def random_model(config: ModelConfig) -> Ernie45ForCausalLM:
    """Linears, experts, router and embedding N(0, 0.02²), norms 1, no correction bias."""
    return Ernie45ForCausalLM(config, random_weights(config))


def random_weights(config: ModelConfig) -> Take:
    """Makes each weight when the model asks for it: bfloat16 on a GPU, float32 on the CPU."""
    known = {weight.name: weight for weight in weights(config)}

    def take(name: str) -> object:
        weight = known.pop(name)
        if weight.kind is Kind.LINEAR:
            return ops.LinearWeight(_matrix(weight.shape))
        if weight.kind is Kind.EMBEDDING:
            return ops.EmbeddingWeight(_matrix(weight.shape))
        if weight.kind is Kind.EXPERTS:
            count, width, hidden = weight.shape
            return ops.ExpertWeights(_matrix((count, 2 * width, hidden)), _matrix((count, hidden, width)))
        if name.endswith("router.gate"):
            return xp.random_normal(weight.shape, STANDARD_DEVIATION, "float32")
        return xp.zeros(weight.shape, "float32") + (0.0 if name.endswith("router.bias") else 1.0)

    return take


def _matrix(shape: tuple[int, ...]) -> object:
    if xp.on_gpu:
        return xp.random_normal(shape, STANDARD_DEVIATION, "bfloat16")
    return xp.to_numpy(xp.random_normal(shape, STANDARD_DEVIATION, "float32"))


def weight_bytes(config: ModelConfig) -> int:
    """Of the whole model as `random_weights` makes it."""
    matrix = 2 if xp.on_gpu else 4
    total = 0
    for weight in weights(config):
        copies = 3 if weight.kind is Kind.EXPERTS else 1
        total += copies * math.prod(weight.shape) * (4 if weight.kind is Kind.FLOAT32 else matrix)
    return total
