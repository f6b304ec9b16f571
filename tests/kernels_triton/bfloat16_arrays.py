"""bfloat16 arrays for interpreted kernels: made from numbers, read as numbers, poisoned."""

from __future__ import annotations

import numpy as np

from ernie_kernels.interpreter import Bfloat16, bfloat16_to_float32, float32_to_bfloat16


def bf16(values: np.ndarray) -> Bfloat16:
    return Bfloat16(float32_to_bfloat16(np.asarray(values, np.float32)))


def f32(tensor: Bfloat16) -> np.ndarray:
    return bfloat16_to_float32(tensor.bits)


def poisoned(*shape: int) -> Bfloat16:
    return bf16(np.full(shape, np.nan, np.float32))


def relative_error(x: np.ndarray, reference: np.ndarray) -> float:
    return float(np.linalg.norm(x - reference) / np.linalg.norm(reference))
