"""The device-tensor surface on PaddlePaddle; the only module that imports paddle. `TensorFramework` says what each function promises."""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F

from ._garbage import no_garbage_collection

Tensor = Any

name = "paddle"
on_gpu = paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0

paddle.set_device("gpu" if on_gpu else "cpu")
paddle.set_grad_enabled(False)

_NUMPY_DTYPES = {getattr(paddle, d): np.dtype(d) for d in ("float32", "float64", "int32", "int64", "uint8", "bool")}


_LARGE_ELEMENTS = 2**20
"""From here on memory comes from numpy, which asks the system for huge pages: first use of 12.6 MB 0.3 ms instead of 4.4."""


def _adopt(array: Any) -> Tensor:
    """A tensor in the array's own memory, which lives as long as the tensor."""
    return paddle.from_dlpack(array)


def empty(shape: Sequence[int], dtype: str) -> Tensor:
    if not on_gpu and math.prod(shape) >= _LARGE_ELEMENTS:
        return _adopt(np.empty(shape, dtype))
    return paddle.empty(shape, getattr(paddle, dtype))


def zeros(shape: Sequence[int], dtype: str) -> Tensor:
    if not on_gpu and math.prod(shape) >= _LARGE_ELEMENTS:
        return _adopt(np.zeros(shape, dtype))
    return paddle.zeros(shape, getattr(paddle, dtype))


def from_numpy(array: np.ndarray) -> Tensor:
    return paddle.to_tensor(array)


def to_numpy(x: Tensor) -> np.ndarray:
    return x.numpy()


def from_bfloat16_bits(bits: np.ndarray) -> Tensor:
    return paddle.to_tensor(bits.view(np.int16)).view("bfloat16")


def random_normal(shape: Sequence[int], std: float, dtype: str) -> Tensor:
    return paddle.cast(paddle.normal(0.0, std, shape), getattr(paddle, dtype))


def copy_(target: Tensor, source: Tensor) -> None:
    target.copy_(source, False)


def cast(x: Tensor, dtype: str) -> Tensor:
    return paddle.cast(x, getattr(paddle, dtype))


def bitcast(x: Tensor, dtype: str) -> Tensor:
    return x.view(dtype)


@lru_cache(maxsize=4096)
def _bytes_type(size: int) -> Any:
    return ctypes.c_char * size


def host_view(x: Tensor) -> np.ndarray:
    # Tensor.numpy() copies, and numpy.from_dlpack gives a read-only array: 1.5 µs this way for any size.
    if not x.is_contiguous():
        raise ValueError(f"host_view needs contiguous memory, got shape {x.shape} with strides {x.strides}.")
    shape, dtype = x.shape, _NUMPY_DTYPES[x.dtype]
    size = dtype.itemsize
    for length in shape:
        size *= length
    if size == 0:
        return np.empty(shape, dtype)
    return np.ndarray(shape, dtype, _bytes_type(size).from_address(x.data_ptr()))


def contiguous(x: Tensor) -> Tensor:
    return x if x.is_contiguous() else x.contiguous()


def reshape(x: Tensor, shape: Sequence[int]) -> Tensor:
    return paddle.reshape(x, shape)


def transpose(x: Tensor, axes: Sequence[int]) -> Tensor:
    return paddle.transpose(x, axes)


def concat(tensors: Sequence[Tensor], axis: int) -> Tensor:
    return paddle.concat(tensors, axis)


def arange(stop: int) -> Tensor:
    return paddle.arange(stop, dtype="int32")


def take(x: Tensor, indices: Tensor, axis: int) -> Tensor:
    return paddle.index_select(x, indices, axis)


def take_along(x: Tensor, indices: Tensor, axis: int) -> Tensor:
    return paddle.take_along_axis(x, indices, axis)


def put_(x: Tensor, indices: Tensor, values: Tensor) -> None:
    x[indices] = values


def add_at_(x: Tensor, indices: Tensor, values: Tensor) -> None:
    x[indices] = paddle.index_select(x, indices, 0) + values


def matmul(a: Tensor, b: Tensor) -> Tensor:
    return paddle.matmul(a, b)


def matmul_transposed(a: Tensor, b: Tensor) -> Tensor:
    return paddle.matmul(a, b, transpose_y=True)


def softmax(x: Tensor, axis: int) -> Tensor:
    return F.softmax(x, axis)


def rsqrt(x: Tensor) -> Tensor:
    return paddle.rsqrt(x)


def silu(x: Tensor) -> Tensor:
    return F.silu(x)


def sigmoid(x: Tensor) -> Tensor:
    return F.sigmoid(x)


def tanh(x: Tensor) -> Tensor:
    return paddle.tanh(x)


def erf(x: Tensor) -> Tensor:
    return paddle.erf(x)


def where(condition: Tensor, a: Tensor, b: float) -> Tensor:
    return paddle.where(condition, a, paddle.full([], b, a.dtype))


def mean(x: Tensor, axis: int) -> Tensor:
    return paddle.mean(x, axis, keepdim=True)


def sum(x: Tensor, axis: int) -> Tensor:
    return paddle.sum(x, axis, keepdim=True)


def clip_min(x: Tensor, low: float) -> Tensor:
    return paddle.clip(x, min=low)


def topk(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    values, indices = paddle.topk(x, k)
    return values, paddle.cast(indices, "int32")


def pinned(shape: Sequence[int], dtype: str) -> Tensor:
    return paddle.to_tensor(np.zeros(shape, dtype), place=paddle.CUDAPinnedPlace())


def synchronize() -> None:
    paddle.device.synchronize()


_POLL_SECONDS = 50e-6
"""Twice that with the system's timer slack, and a GPU has a step in hand while the host waits."""


class _Event:
    """Paddle's `synchronize` keeps the interpreter's lock: while it waits for a step, no other thread would run."""

    def __init__(self) -> None:
        self._event = paddle.device.Event()
        self.record = self._event.record

    def synchronize(self) -> None:
        while not self._event.query():
            time.sleep(_POLL_SECONDS)


def event() -> Any:
    return _Event()


@lru_cache(maxsize=1)
def _graph_memory_pool() -> int:
    from paddle.base.core import CUDAGraph  # only in builds for GPUs

    return CUDAGraph.gen_new_memory_pool_id()


def capture(function: Callable[[], None]) -> Any:
    from paddle.device.cuda.graphs import CUDAGraph

    graph = CUDAGraph(pool_id=_graph_memory_pool())
    with no_garbage_collection():
        graph.capture_begin()
        try:
            function()
        finally:
            graph.capture_end()
    return graph


def profile_kernels(function: Callable[[], object]) -> list[tuple[str, float, float]]:
    raise NotImplementedError("kernels are profiled under PyTorch: set ERNIE_TENSOR_FRAMEWORK=torch")


def free_memory_bytes() -> int:
    paddle.device.cuda.empty_cache()  # what other processes hold is not known here
    return total_memory_bytes() - paddle.device.cuda.memory_reserved()


def total_memory_bytes() -> int:
    return paddle.device.cuda.get_device_properties().total_memory


def device_index() -> int:
    return int(paddle.device.get_device().partition(":")[2] or 0)


def select_device(index: int) -> None:
    paddle.device.set_device(f"gpu:{index}")


def device_capability() -> tuple[int, int]:
    return paddle.device.cuda.get_device_capability()


def stream_handle() -> int:
    core: Any = paddle.base.libpaddle
    return core._get_current_raw_stream(device_index())
