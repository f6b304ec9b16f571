"""The device-tensor surface on PyTorch; the only module that imports torch. `TensorFramework` says what each function promises."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch

from ._garbage import no_garbage_collection

Tensor = Any

name = "torch"
on_gpu = torch.cuda.is_available()
_DEVICE = torch.device("cuda") if on_gpu else torch.device("cpu")

torch.set_grad_enabled(False)


_LARGE_ELEMENTS = 2**20
"""From here on memory comes from numpy, which asks the system for huge pages: first use of 12.6 MB 0.3 ms instead of 2.4."""


def empty(shape: Sequence[int], dtype: str) -> Tensor:
    if not on_gpu and math.prod(shape) >= _LARGE_ELEMENTS:
        return torch.from_numpy(np.empty(shape, dtype))
    return torch.empty(tuple(shape), dtype=getattr(torch, dtype), device=_DEVICE)


def zeros(shape: Sequence[int], dtype: str) -> Tensor:
    if not on_gpu and math.prod(shape) >= _LARGE_ELEMENTS:
        return torch.from_numpy(np.zeros(shape, dtype))
    return torch.zeros(tuple(shape), dtype=getattr(torch, dtype), device=_DEVICE)


_PINNED_BYTES = 2**22
"""Up to here an upload goes through page-locked memory, so that the host need not wait; locking more costs more than it saves."""


def from_numpy(array: np.ndarray) -> Tensor:
    if on_gpu and array.nbytes <= _PINNED_BYTES:
        host = torch.empty(array.shape, dtype=getattr(torch, array.dtype.name), pin_memory=True)
        host.numpy()[...] = array
        return host.to(_DEVICE, non_blocking=True)
    return torch.tensor(np.asarray(array, order="C"), device=_DEVICE)  # unlike torch.from_numpy it takes read-only memory too


def to_numpy(x: Tensor) -> np.ndarray:
    return x.cpu().numpy().copy()


def from_bfloat16_bits(bits: np.ndarray) -> Tensor:
    return torch.tensor(bits.view(np.int16), device=_DEVICE).view(torch.bfloat16)


def random_normal(shape: Sequence[int], std: float, dtype: str) -> Tensor:
    return empty(shape, dtype).normal_(0.0, std)


def copy_(target: Tensor, source: Tensor) -> None:
    target.copy_(source, non_blocking=True)


def cast(x: Tensor, dtype: str) -> Tensor:
    return x.to(getattr(torch, dtype))


def bitcast(x: Tensor, dtype: str) -> Tensor:
    return x.view(getattr(torch, dtype))


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
    return torch.arange(stop, dtype=torch.int32, device=_DEVICE)


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


def matmul_transposed(a: Tensor, b: Tensor) -> Tensor:
    return torch.matmul(a, b.T)


def softmax(x: Tensor, axis: int) -> Tensor:
    return torch.softmax(x, axis)


def rsqrt(x: Tensor) -> Tensor:
    return torch.rsqrt(x)


def silu(x: Tensor) -> Tensor:
    return torch.nn.functional.silu(x)


def sigmoid(x: Tensor) -> Tensor:
    return torch.sigmoid(x)


def tanh(x: Tensor) -> Tensor:
    return torch.tanh(x)


def erf(x: Tensor) -> Tensor:
    return torch.erf(x)


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


def pinned(shape: Sequence[int], dtype: str) -> Tensor:
    return torch.zeros(tuple(shape), dtype=getattr(torch, dtype), pin_memory=True)


def synchronize() -> None:
    torch.cuda.synchronize()


def event() -> Any:
    return torch.cuda.Event()


@cache
def _keeper() -> Any:
    """A graph that is never given up. All share its memory: torch gives up the memory of graphs that are gone, and would refuse it to the
    next one."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        torch.zeros(1, device=_DEVICE)
    return graph


def capture(function: Callable[[], None]) -> Any:
    graph = torch.cuda.CUDAGraph()
    with no_garbage_collection(), torch.cuda.graph(graph, pool=_keeper().pool()):
        function()
    return graph


def profile_kernels(function: Callable[[], object]) -> list[tuple[str, float, float]]:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        function()
        torch.cuda.synchronize()
    on_device = (event for event in profiler.events() if event.device_type == torch.autograd.DeviceType.CUDA)
    return sorted(((event.name, event.time_range.start, event.time_range.end) for event in on_device), key=lambda event: event[2])


def free_memory_bytes() -> int:
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info()[0]


def total_memory_bytes() -> int:
    return torch.cuda.mem_get_info()[1]


def device_index() -> int:
    return torch.cuda.current_device()


def select_device(index: int) -> None:
    torch.cuda.set_device(index)


def device_capability() -> tuple[int, int]:
    return torch.cuda.get_device_capability()


def stream_handle() -> int:
    return torch.cuda.current_stream().cuda_stream
