"""The device-tensor surface on PyTorch; the only module that imports torch. `TensorFramework` says what each function promises."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

Tensor = Any

name = "torch"
on_gpu = False

torch.set_grad_enabled(False)


_LARGE_ELEMENTS = 2**20
"""From here on memory comes from numpy, which asks the system for huge pages: first use of 12.6 MB 0.3 ms instead of 2.4."""


def empty(shape: Sequence[int], dtype: str) -> Tensor:
    if math.prod(shape) >= _LARGE_ELEMENTS:
        return torch.from_numpy(np.empty(shape, dtype))
    return torch.empty(tuple(shape), dtype=getattr(torch, dtype))


def zeros(shape: Sequence[int], dtype: str) -> Tensor:
    if math.prod(shape) >= _LARGE_ELEMENTS:
        return torch.from_numpy(np.zeros(shape, dtype))
    return torch.zeros(tuple(shape), dtype=getattr(torch, dtype))


def from_numpy(array: np.ndarray) -> Tensor:
    return torch.tensor(array)


def to_numpy(x: Tensor) -> np.ndarray:
    return x.numpy().copy()


def host_view(x: Tensor) -> np.ndarray:
    if not x.is_contiguous():
        raise ValueError(f"host_view needs contiguous memory, got shape {tuple(x.shape)} with strides {x.stride()}.")
    return x.numpy()


def contiguous(x: Tensor) -> Tensor:
    return x.contiguous()


def reshape(x: Tensor, shape: Sequence[int]) -> Tensor:
    return x.reshape(tuple(shape))


def transpose(x: Tensor, axes: Sequence[int]) -> Tensor:
    return x.permute(tuple(axes))


def concat(tensors: Sequence[Tensor], axis: int) -> Tensor:
    return torch.cat(tuple(tensors), axis)


def arange(stop: int) -> Tensor:
    return torch.arange(stop, dtype=torch.int32)


def take(x: Tensor, indices: Tensor, axis: int) -> Tensor:
    return torch.index_select(x, axis, indices)


def take_along(x: Tensor, indices: Tensor, axis: int) -> Tensor:
    return torch.take_along_dim(x, indices.long(), axis)


def put_(x: Tensor, indices: Tensor, values: Tensor) -> None:
    x[indices.long()] = values


def add_at_(x: Tensor, indices: Tensor, values: Tensor) -> None:
    x[indices.long()] += values


def matmul(a: Tensor, b: Tensor) -> Tensor:
    return torch.matmul(a, b)


def softmax(x: Tensor, axis: int) -> Tensor:
    return torch.softmax(x, axis)


def rsqrt(x: Tensor) -> Tensor:
    return torch.rsqrt(x)


def silu(x: Tensor) -> Tensor:
    return torch.nn.functional.silu(x)


def where(condition: Tensor, a: Tensor, b: float) -> Tensor:
    return torch.where(condition, a, b)


def mean(x: Tensor, axis: int) -> Tensor:
    return torch.mean(x, axis, keepdim=True)


def sum(x: Tensor, axis: int) -> Tensor:
    return torch.sum(x, axis, keepdim=True)


def clip_min(x: Tensor, low: float) -> Tensor:
    return torch.clamp(x, min=low)


def topk(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    values, indices = torch.topk(x, k)
    return values, indices.to(torch.int32)
