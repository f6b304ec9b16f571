"""Weights as the operators hold them; knows no layer and no file.

On the CPU numpy arrays in the checkpoint's own precision: a bfloat16 weight stays 2 bytes per element (its bit patterns as uint16), since
decoding reads every weight once per token, so bytes are time. On a GPU bfloat16 tensors of the framework.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

BFLOAT16_BITS = np.dtype(np.uint16)
"""How bfloat16 travels in numpy, which has no such type: the upper 16 bits of the float32."""

Array: TypeAlias = Any
"""numpy float32, or uint16 = bfloat16 bits (CPU); a bfloat16 tensor (GPU)."""


@dataclass(frozen=True)
class LinearWeight:
    """The matrix of y = x Wᵀ."""

    array: Array  # [out_features, in_features]

    @property
    def out_features(self) -> int:
        return self.array.shape[0]

    @property
    def in_features(self) -> int:
        return self.array.shape[1]

    @property
    def nbytes(self) -> int:
        return self.array.nbytes


@dataclass(frozen=True)
class EmbeddingWeight:
    """One row for each token id."""

    array: Array  # [vocab_size, hidden_size]

    @property
    def nbytes(self) -> int:
        return self.array.nbytes


@dataclass(frozen=True)
class ExpertWeights:
    """The SwiGLU experts of one layer; a loader fills `gate_up[e]` and `down[e]` of numpy arrays.

    Shared experts, which serve every token with weight 1, are one SwiGLU n times as wide on the CPU, and the last n experts on a GPU.
    """

    gate_up: Array  # [num_experts, 2 · intermediate, hidden], gate rows first
    down: Array  # [num_experts, hidden, intermediate]
    shared: tuple[LinearWeight, LinearWeight] | None = None  # CPU: gate_up [2·n·intermediate, hidden], down [hidden, n·intermediate]
    num_shared: int = 0  # GPU: how many of num_experts

    @classmethod
    def empty(cls, num_experts: int, intermediate_size: int, hidden_size: int, dtype: str) -> ExpertWeights:
        """Unfilled experts of dtype "float32" or "bfloat16"."""
        numpy_dtype = np.dtype({"float32": "float32", "bfloat16": BFLOAT16_BITS.name}[dtype])
        return cls(
            np.empty((num_experts, 2 * intermediate_size, hidden_size), numpy_dtype),
            np.empty((num_experts, hidden_size, intermediate_size), numpy_dtype),
        )

    @property
    def num_experts(self) -> int:
        return self.gate_up.shape[0]

    @property
    def nbytes(self) -> int:
        return self.gate_up.nbytes + self.down.nbytes


@dataclass(frozen=True)
class RoutedExperts:
    """A router and the experts that it chooses from."""

    gate: Any  # [num_experts, hidden] float32 tensor
    bias: Any | None  # [num_experts] float32 tensor
    experts: ExpertWeights


def check_weight(array: np.ndarray, ndim: int) -> np.ndarray:
    """`array` as rows that lie one after another in memory (copied only if they do not). TypeError, ValueError: wrong dtype or rank."""
    if array.dtype not in (np.float32, BFLOAT16_BITS):
        raise TypeError(f"a weight must be float32 or uint16 (bfloat16 bits), got {array.dtype}")
    if array.ndim != ndim:
        raise ValueError(f"this weight must have {ndim} axes, got shape {array.shape}")
    return np.ascontiguousarray(array)


def as_float32(array: np.ndarray) -> np.ndarray:
    """The values of a weight as float32: itself, or bfloat16 bits expanded (exact)."""
    if array.dtype == BFLOAT16_BITS:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array
