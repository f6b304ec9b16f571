"""Published numbers of ERNIE-4.5's maths: rotary angles and the router's example."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ernie_kernels import ops, xp


def tensor(values, dtype=np.float32):
    return xp.from_numpy(np.asarray(values, dtype))


@pytest.mark.parametrize(
    ("pair", "angle"), [(1, 0.8146172338565447), (31, 0.0017360467021768657), (44, 0.00012076973741146504), (63, 2.455140791131609e-06)]
)
def test_rotary_angles(pair, angle):
    table = xp.to_numpy(ops.rope_table(128, 500000.0, 131072))
    for position in (0, 1, 131071):
        assert table[position, pair] == np.float32(math.cos(position * angle))
        assert table[position, 64 + pair] == pytest.approx(math.sin(position * angle), abs=1e-7)


def test_rotation_of_a_unit_pair_at_position_3():
    qkv = np.zeros((1, 3 * 128), np.float32)
    qkv[0, [2, 128 + 2]] = 1  # pair 1 of the query and of the key is (1, 0)
    k_cache, v_cache = xp.zeros([1, 4, 1, 128], "float32"), xp.zeros([1, 4, 1, 128], "float32")
    q = ops.rotary_kv_write(tensor(qkv), ops.rope_table(128, 500000.0, 8), tensor([3], np.int32), tensor([2], np.int32), k_cache, v_cache)
    expected = [-0.7662955531, 0.6424882297]
    np.testing.assert_allclose(xp.to_numpy(q)[0, 0, 2:4], expected, atol=1e-7)
    np.testing.assert_allclose(xp.to_numpy(k_cache)[0, 2, 0, 2:4], expected, atol=1e-7)
    assert np.count_nonzero(xp.to_numpy(k_cache)) == 2


def test_router_bias_decides_who_is_chosen_but_not_the_weight():
    weights, ids = ops.route(tensor([[1.0]]), tensor([[2], [1], [0], [-1]]), tensor([0, 0, 0.5, 0]), 2, 1e-12)
    assert xp.to_numpy(ids).tolist() == [[0, 2]]
    np.testing.assert_allclose(xp.to_numpy(weights), [[0.88079708, 0.11920292]], atol=1e-7)


def test_router_without_bias_takes_the_most_probable():
    weights, ids = ops.route(tensor([[1.0]]), tensor([[2], [1], [0], [-1]]), None, 4, 1e-12)
    assert xp.to_numpy(ids).tolist() == [[0, 1, 2, 3]]
    np.testing.assert_allclose(xp.to_numpy(weights), [[0.64391426, 0.23688282, 0.08714432, 0.0320586]], atol=1e-7)


def test_router_divides_by_norm_min_when_the_chosen_weigh_less():
    weights, _ = ops.route(tensor([[1.0]]), tensor([[2], [1], [0], [-1]]), tensor([0, 0, 0, 9]), 1, 0.5)
    np.testing.assert_allclose(xp.to_numpy(weights), [[0.0320586 / 0.5]], atol=1e-7)


def test_router_takes_the_lower_id_of_equal_candidates():
    _, ids = ops.route(tensor([[1.0]]), tensor([[0], [1], [1], [1]]), None, 2, 1e-12)
    assert xp.to_numpy(ids).tolist() == [[1, 2]]
