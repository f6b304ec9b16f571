"""Uploads to the GPU: the tensor surface's tests of them, on PyTorch with its page-locked memory."""

from __future__ import annotations

import os

os.environ.setdefault("ERNIE_TENSOR_FRAMEWORK", "torch")

from ernie_kernels import xp
from tests.kernels.test_tensor_surface import test_from_numpy_and_to_numpy_copy, test_from_numpy_takes_memory_of_every_kind

__all__ = ["test_from_numpy_and_to_numpy_copy", "test_from_numpy_takes_memory_of_every_kind"]


def test_tensors_lie_on_the_gpu() -> None:
    assert xp.on_gpu and xp.zeros([1], "float32").is_cuda
