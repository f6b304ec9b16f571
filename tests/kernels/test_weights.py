"""Weights keep the checkpoint's precision and memory, and refuse what they cannot hold."""

from __future__ import annotations

import numpy as np
import pytest

from ernie_kernels import ops, xp
from ernie_kernels.weights import as_float32


def test_bfloat16_stays_two_bytes_and_is_exact():
    bits = np.array([[0x3F80, 0xC000, 0x0001, 0x7F7F]], np.uint16)  # 1, −2, the smallest denormal, the largest finite
    w = ops.pack_linear(bits)
    assert (w.out_features, w.in_features, w.nbytes) == (1, 4, 8)
    np.testing.assert_array_equal(as_float32(w.array), np.array([[1, -2, 2.0**-133, 3.3895313892515355e38]], np.float32))


def test_packing_takes_over_memory_and_a_tied_head_shares_it():
    table = np.ones((5, 4), np.float32)
    embedding = ops.pack_embedding(table)
    head = ops.tied_head(embedding)
    assert np.shares_memory(embedding.array, table) and np.shares_memory(head.array, table)
    assert embedding.nbytes == head.nbytes == table.nbytes


def test_read_only_weights_work():
    array = np.ones((4, 4), np.float32)
    array.flags.writeable = False  # as arrays mapped from a file are
    np.testing.assert_array_equal(xp.to_numpy(ops.linear(xp.zeros([2, 4], "float32") + 1.0, ops.pack_linear(array))), np.full((2, 4), 4.0))


def test_transposed_weights_are_laid_out_anew():
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    y = ops.linear(xp.from_numpy(np.eye(2, dtype=np.float32)), ops.pack_linear(array))
    np.testing.assert_array_equal(xp.to_numpy(y), array.T)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int8])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(TypeError, match="float32 or uint16"):
        ops.pack_linear(np.zeros((2, 2), dtype))


def test_wrong_rank_is_refused():
    with pytest.raises(ValueError, match="2 axes, got shape"):
        ops.pack_embedding(np.zeros((2, 2, 2), np.float32))
    with pytest.raises(ValueError, match="3 axes, got shape"):
        ops.pack_experts(np.zeros((2, 2), np.float32), np.zeros((2, 2, 2), np.float32))


def test_mismatched_shapes_never_reach_a_kernel():
    with pytest.raises(AssertionError):
        ops.linear(xp.zeros([1, 5], "float32"), ops.pack_linear(np.zeros((3, 4), np.float32)))


@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("bfloat16", 2)])
def test_empty_experts_are_filled_expert_by_expert(dtype, size):
    experts = ops.ExpertWeights.empty(3, 4, 6, dtype)
    assert experts.gate_up.shape == (3, 8, 6) and experts.down.shape == (3, 6, 4)
    assert (experts.num_experts, experts.nbytes) == (3, 3 * (8 * 6 + 6 * 4) * size)
    experts.gate_up[:] = experts.down[:] = 0
    y = ops.moe_experts(xp.zeros([1, 6], "float32"), xp.zeros([1, 1], "float32"), xp.zeros([1, 1], "int32"), experts)
    assert not xp.to_numpy(y).any()
