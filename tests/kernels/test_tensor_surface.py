"""The tensor surface: memory it shares and memory it does not, and what it refuses."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from ernie_kernels import xp


def test_from_numpy_and_to_numpy_copy():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    tensor = xp.from_numpy(array)
    array[0, 0] = 9
    copy = xp.to_numpy(tensor)
    copy[1, 1] = 9
    np.testing.assert_array_equal(xp.to_numpy(tensor), np.arange(6, dtype=np.float32).reshape(2, 3))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("rows", [1, 2**20], ids=["small", "large"])
def test_from_numpy_takes_memory_of_every_kind(rows):
    """Of another order, reversed, without an axis, empty, and such that may not be written, as a mapped file's."""
    array = np.arange(6 * rows, dtype=np.float32).reshape(2 * rows, 3)
    array.flags.writeable = False
    for given in (array, array.T, array[:, ::-1], array[1:, 1], array[0, 0].reshape(()), array[:0]):
        tensor = xp.from_numpy(given)
        assert tuple(tensor.shape) == given.shape and tensor.is_contiguous()
        np.testing.assert_array_equal(xp.to_numpy(tensor), given)


@pytest.mark.parametrize("rows", [2, 2**19])
def test_host_view_is_the_tensors_memory(rows):
    tensor = xp.zeros([rows, 3], "float32")
    assert not xp.to_numpy(tensor).any()
    xp.host_view(tensor)[1, 2] = 5
    assert float(tensor[1, 2]) == 5
    tensor[1, 2] = 6
    assert xp.host_view(tensor)[1, 2] == 6
    assert xp.host_view(xp.empty([rows, 3], "int32")).dtype == np.int32


def test_host_view_of_nothing_is_empty():
    assert xp.host_view(xp.zeros([0, 4], "float32")).shape == (0, 4)


def test_host_view_refuses_memory_with_gaps():
    columns = xp.zeros([4, 6], "float32")[:, 2:4]
    with pytest.raises(ValueError, match="contiguous"):
        xp.host_view(columns)
    assert xp.host_view(xp.contiguous(columns)).shape == (4, 2)


def test_put_and_add_at_write_in_place():
    x = xp.zeros([4, 2], "float32")
    rows, values = xp.from_numpy(np.array([3, 1], np.int32)), xp.from_numpy(np.array([[1, 2], [3, 4]], np.float32))
    xp.put_(x, rows, values)
    xp.add_at_(x, rows, values)
    np.testing.assert_array_equal(xp.to_numpy(x), [[0, 0], [6, 8], [0, 0], [2, 4]])


def test_topk_gives_largest_first_and_int32():
    values, indices = xp.topk(xp.from_numpy(np.array([[1, 5, 3, 4]], np.float32)), 3)
    np.testing.assert_array_equal(xp.to_numpy(values), [[5, 4, 3]])
    np.testing.assert_array_equal(xp.to_numpy(indices), [[1, 3, 2]])
    assert xp.to_numpy(indices).dtype == np.int32


@pytest.mark.parametrize(
    ("name", "expected"),
    [("torch", "torch paddle=False"), ("paddle", "paddle torch=False"), ("jax", "must be 'paddle' or 'torch', got 'jax'")],
)
def test_the_environment_chooses_one_framework(name, expected):
    code = (
        "import os, sys; os.environ.pop('OMP_NUM_THREADS', None); from ernie_kernels import xp; "
        "other = {'torch': 'paddle', 'paddle': 'torch'}[xp.name]; "
        "assert os.environ['OMP_NUM_THREADS'] == str(len(os.sched_getaffinity(0))); "
        "print(xp.name, f'{other}={other in sys.modules}')"
    )
    environment = {**os.environ, "ERNIE_TENSOR_FRAMEWORK": name}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert expected in result.stdout + result.stderr
