"""Uploads to the GPU: the tensor surface's tests of them, on PyTorch with its page-locked memory."""

from __future__ import annotations

import gc
import os

os.environ.setdefault("ERNIE_TENSOR_FRAMEWORK", "torch")

from ernie_kernels import xp
from tests.kernels.test_tensor_surface import test_from_numpy_and_to_numpy_copy, test_from_numpy_takes_memory_of_every_kind

__all__ = ["test_from_numpy_and_to_numpy_copy", "test_from_numpy_takes_memory_of_every_kind"]


def test_tensors_lie_on_the_gpu() -> None:
    assert xp.on_gpu and xp.zeros([1], "float32").is_cuda


class _Owner:
    """Of a graph, in a cycle: only the garbage collector ends it."""

    def __init__(self, graph: object) -> None:
        self.graph, self.myself = graph, self


def test_a_dead_graph_does_not_end_while_another_is_captured() -> None:
    """Its end calls the driver, which makes the recording fail: 'operation failed due to a previous error during capture'."""
    x = xp.zeros([8], "float32")

    def add() -> None:
        x.add_(1.0)

    def add_and_make_garbage() -> None:
        x.add_(1.0)
        assert [[] for _ in range(10_000)]  # the collector looks at new containers after some hundreds of them
        x.add_(1.0)

    add()
    for _ in range(3):
        gc.collect()
        _Owner(xp.capture(add))
        xp.capture(add_and_make_garbage).replay()
    assert gc.isenabled() and x.tolist() == [7.0] * 8
