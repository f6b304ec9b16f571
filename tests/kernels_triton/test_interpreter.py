"""The interpreter's shim: bfloat16 as the hardware has it, on numpy, Paddle and torch memory alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import pytest
import torch
import triton
import triton.language as tl

from ernie_kernels.interpreter import Bfloat16, bfloat16_to_float32, float32_to_bfloat16
from ernie_kernels.launch import run


@triton.jit
def _product_plus_polynomial(x_ptr, y_ptr, out_ptr, K, BLOCK: tl.constexpr, PDL: tl.constexpr):
    rows = tl.arange(0, 16)
    total = tl.zeros([16, 16], tl.float32)
    for start in range(0, K, BLOCK):
        k = start + tl.arange(0, BLOCK)
        total = tl.dot(tl.load(x_ptr + rows[:, None] * K + k[None, :]), tl.load(y_ptr + k[:, None] * 16 + rows[None, :]), total)
    first = tl.load(x_ptr + rows * K)
    total += (first * first + first)[None, :].to(tl.float32)
    tl.store(out_ptr + rows[:, None] * 16 + rows[None, :], total.to(tl.bfloat16))


@triton.jit
def _sum_in_bfloat16(x_ptr, out_ptr):
    tl.store(out_ptr, tl.sum(tl.load(x_ptr + tl.arange(0, 16))))


def _numpy(array: np.ndarray) -> tuple[Any, Callable[[], np.ndarray]]:
    bits = float32_to_bfloat16(array)
    return Bfloat16(bits), lambda: bfloat16_to_float32(bits)


def _paddle(array: np.ndarray) -> tuple[Any, Callable[[], np.ndarray]]:
    tensor = paddle.to_tensor(array).cast("bfloat16")
    return tensor, lambda: tensor.cast("float32").numpy()


def _torch(array: np.ndarray) -> tuple[Any, Callable[[], np.ndarray]]:
    tensor = torch.tensor(array).bfloat16()
    return tensor, lambda: tensor.float().numpy()


@pytest.mark.parametrize("framework", [_numpy, _paddle, _torch])
def test_bfloat16_products_sums_and_rounding(framework: Any) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((16, 64), np.float32), rng.standard_normal((64, 16), np.float32)
    x_argument, x_values = framework(x)
    y_argument, y_values = framework(y)
    out_argument, out_values = framework(np.full((16, 16), np.nan, np.float32))
    run(_product_plus_polynomial, (1,), x_argument, y_argument, out_argument, 64, pdl=True, BLOCK=32)
    x, y = x_values(), y_values()
    square = bfloat16_to_float32(float32_to_bfloat16(x[:, 0] * x[:, 0]))
    polynomial = bfloat16_to_float32(float32_to_bfloat16(square + x[:, 0]))
    expected = bfloat16_to_float32(float32_to_bfloat16(x @ y + polynomial[None, :]))
    # Another order of the float32 sum may round a few elements to the neighbouring bfloat16, 2⁻⁸ away.
    assert np.count_nonzero(out_values() != expected) <= 8
    np.testing.assert_allclose(out_values(), expected, rtol=2**-7, atol=2**-12)


def test_rounds_to_nearest_even_as_torch_does() -> None:
    values = np.random.default_rng(1).standard_normal(10_000).astype(np.float32)
    values[:4] = [np.nan, np.inf, 1 + 2**-8, 1 + 3 * 2**-8]
    expected = torch.tensor(values).bfloat16().float().numpy()
    np.testing.assert_array_equal(bfloat16_to_float32(float32_to_bfloat16(values)), expected)


def test_refuses_to_reduce_bfloat16() -> None:
    with pytest.raises(Exception, match="cast to float32"):
        run(_sum_in_bfloat16, (1,), Bfloat16(np.zeros(16, np.uint16)), np.zeros(1, np.float32))
