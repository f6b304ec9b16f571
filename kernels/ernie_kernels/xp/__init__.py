"""The device-tensor surface, chosen once per process by ERNIE_TENSOR_FRAMEWORK (paddle, the default, or torch); knows no operator.

Ordinary array code on tensors of whichever framework runs: shapes are sequences of ints, dtypes are strings ("float32", "int32"), `axis`
is never called `dim`, and a function whose name ends in `_` writes in place. A difference between frameworks is solved here or nowhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
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

    def from_bfloat16_bits(self, bits: np.ndarray) -> Tensor:
        """A bfloat16 tensor of its own from uint16 bit patterns."""
        ...

    def random_normal(self, shape: Sequence[int], std: float, dtype: str) -> Tensor:
        """N(0, std²), made on the device."""
        ...

    def copy_(self, target: Tensor, source: Tensor) -> None:
        """target = source, same shape and dtype; between the GPU and page-locked memory without waiting for it."""
        ...

    # shape
    def cast(self, x: Tensor, dtype: str) -> Tensor: ...
    def bitcast(self, x: Tensor, dtype: str) -> Tensor:
        """The same memory read as another dtype; the last axis changes with the element's size."""
        ...

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
    def matmul_transposed(self, a: Tensor, b: Tensor) -> Tensor:
        """a bᵀ: [T, K], [N, K] → [T, N]."""
        ...

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

    # GPU only
    def pinned(self, shape: Sequence[int], dtype: str) -> Tensor:
        """Page-locked host memory, zeroed; `host_view` shows it as an array. Only for `copy_`, and whole: what slices or computes may first
        move it to the GPU for good (Paddle does)."""
        ...

    def synchronize(self) -> None: ...
    def event(self) -> Any:
        """`.record()` marks the stream's present end; `.synchronize()` waits until the GPU has come past the mark, and lets other threads
        run meanwhile. It can be recorded again and again."""
        ...

    def capture(self, function: Callable[[], None]) -> Any:
        """A CUDA graph of what `function` launches; its `.replay()` launches it again, on the same memory. The function must have run
        before, so that nothing is compiled or loaded while it is recorded. All graphs share one memory pool: what one leaves in memory of
        its own is lost when another is replayed."""
        ...

    def profile_kernels(self, function: Callable[[], object]) -> list[tuple[str, float, float]]:
        """(name, start, end in µs) of everything that the device did while `function` ran, in the order of the ends."""
        ...

    def free_memory_bytes(self) -> int:
        """What can still be allocated, the framework's own unused memory included."""
        ...

    def total_memory_bytes(self) -> int: ...
    def device_index(self) -> int: ...
    def select_device(self, index: int) -> None: ...
    def device_capability(self) -> tuple[int, int]: ...
    def stream_handle(self) -> int: ...


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
from_bfloat16_bits = _framework.from_bfloat16_bits
random_normal = _framework.random_normal
copy_ = _framework.copy_
cast = _framework.cast
bitcast = _framework.bitcast
reshape = _framework.reshape
transpose = _framework.transpose
concat = _framework.concat
arange = _framework.arange
take = _framework.take
take_along = _framework.take_along
put_ = _framework.put_
add_at_ = _framework.add_at_
matmul = _framework.matmul
matmul_transposed = _framework.matmul_transposed
softmax = _framework.softmax
rsqrt = _framework.rsqrt
silu = _framework.silu
where = _framework.where
mean = _framework.mean
sum = _framework.sum
clip_min = _framework.clip_min
topk = _framework.topk
pinned = _framework.pinned
synchronize = _framework.synchronize
event = _framework.event
capture = _framework.capture
profile_kernels = _framework.profile_kernels
free_memory_bytes = _framework.free_memory_bytes
total_memory_bytes = _framework.total_memory_bytes
device_index = _framework.device_index
select_device = _framework.select_device
device_capability = _framework.device_capability
stream_handle = _framework.stream_handle
