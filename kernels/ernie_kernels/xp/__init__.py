"""The device-tensor surface, chosen once per process by ERNIE_TENSOR_FRAMEWORK (paddle, the default, or torch); knows no operator.

Ordinary array code on tensors of whichever framework runs: shapes are sequences of ints, dtypes are strings ("float32", "int32"), `axis`
is never called `dim`, and a function whose name ends in `_` writes in place. A difference between frameworks is solved here or nowhere.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np

Tensor: TypeAlias = Any
"""A tensor of the chosen framework. Shared by both: `.shape`, slicing (a view), `+`, `-`, `*`, `/` and comparisons."""


class TensorFramework(Protocol):
    """What each framework module offers. Arguments are tensors unless they say otherwise."""

    name: str
    on_gpu: bool

    # memory
    def empty(self, shape: Sequence[int], dtype: str) -> Tensor: ...
    def zeros(self, shape: Sequence[int], dtype: str) -> Tensor: ...
    def from_numpy(self, array: np.ndarray) -> Tensor:
        """A tensor of its own with the array's values."""
        ...

    def to_numpy(self, x: Tensor) -> np.ndarray:
        """An array of its own with the tensor's values."""
        ...

    def host_view(self, x: Tensor) -> np.ndarray:
        """The memory of a contiguous CPU tensor as an array: no copy, both see writes. Valid only while the tensor lives."""
        ...

    def contiguous(self, x: Tensor) -> Tensor:
        """`x` itself if its memory is contiguous, else a copy that is."""
        ...

    # shape
    def reshape(self, x: Tensor, shape: Sequence[int]) -> Tensor: ...
    def transpose(self, x: Tensor, axes: Sequence[int]) -> Tensor: ...
    def concat(self, tensors: Sequence[Tensor], axis: int) -> Tensor: ...
    def arange(self, stop: int) -> Tensor:
        """int32 [stop]: 0, 1, …, stop − 1."""
        ...

    def take(self, x: Tensor, indices: Tensor, axis: int) -> Tensor:
        """The slices of `x` along `axis` that a one-dimensional int32 `indices` names."""
        ...

    def take_along(self, x: Tensor, indices: Tensor, axis: int) -> Tensor:
        """One element of `x` for each element of int32 `indices`, as numpy's take_along_axis."""
        ...

    def put_(self, x: Tensor, indices: Tensor, values: Tensor) -> None:
        """x[indices[i]] = values[i] along axis 0, in place; int32 indices, all different."""
        ...

    def add_at_(self, x: Tensor, indices: Tensor, values: Tensor) -> None:
        """x[indices[i]] += values[i] along axis 0, in place; int32 indices, all different."""
        ...

    # maths
    def matmul(self, a: Tensor, b: Tensor) -> Tensor: ...
    def softmax(self, x: Tensor, axis: int) -> Tensor: ...
    def rsqrt(self, x: Tensor) -> Tensor: ...
    def silu(self, x: Tensor) -> Tensor: ...
    def where(self, condition: Tensor, a: Tensor, b: float) -> Tensor: ...
    def mean(self, x: Tensor, axis: int) -> Tensor:
        """Keeps `axis` with length 1, as `sum` does."""
        ...

    def sum(self, x: Tensor, axis: int) -> Tensor: ...
    def clip_min(self, x: Tensor, low: float) -> Tensor: ...
    def topk(self, x: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k largest of the last axis, largest first: values and int32 indices."""
        ...


def _choose() -> TensorFramework:
    """The framework module that ERNIE_TENSOR_FRAMEWORK names. Must come before anything else imports a framework: both read
    OMP_NUM_THREADS at import, and Paddle sets it to 1 where it is unset (head of the 0.3B model: 33 ms instead of 13)."""
    os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))
    name = os.environ.get("ERNIE_TENSOR_FRAMEWORK", "paddle")
    chosen: TensorFramework
    if name == "paddle":
        from . import _paddle as chosen
    elif name == "torch":
        from . import _torch as chosen
    else:
        raise ValueError(f"ERNIE_TENSOR_FRAMEWORK must be 'paddle' or 'torch', got {name!r}.")
    return chosen


_framework = _choose()
name = _framework.name
on_gpu = _framework.on_gpu
empty = _framework.empty
zeros = _framework.zeros
from_numpy = _framework.from_numpy
to_numpy = _framework.to_numpy
host_view = _framework.host_view
contiguous = _framework.contiguous
reshape = _framework.reshape
transpose = _framework.transpose
concat = _framework.concat
arange = _framework.arange
take = _framework.take
take_along = _framework.take_along
put_ = _framework.put_
add_at_ = _framework.add_at_
matmul = _framework.matmul
softmax = _framework.softmax
rsqrt = _framework.rsqrt
silu = _framework.silu
where = _framework.where
mean = _framework.mean
sum = _framework.sum
clip_min = _framework.clip_min
topk = _framework.topk
