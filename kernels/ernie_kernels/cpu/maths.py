"""Scalar functions that the compiler turns into vector code; knows no operator."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .compile import CONTRACT, kernel

_LOG2_E = np.float32(1.4426950408889634)
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_ROUND = np.float32(12582912.0)  # 1.5 · 2²³: adding and subtracting it rounds to an integer
_C2, _C3, _C4 = np.float32(0.5), np.float32(1.6666665459e-1), np.float32(4.1665795894e-2)
_C5, _C6, _C7 = np.float32(8.3334519073e-3), np.float32(1.3981999507e-3), np.float32(1.9875691500e-4)
_ONE = np.float32(1)
_LOWEST, _HIGHEST = np.float32(-87.0), np.float32(88.0)


def _type_power_of_two(typingctx, exponent):
    """2^exponent as float32, −126 ≤ exponent ≤ 127."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        word = ir.IntType(32)
        bits = builder.shl(builder.add(args[0], ir.Constant(word, 127)), ir.Constant(word, 23))
        return builder.bitcast(bits, ir.FloatType())

    return types.float32(types.int32), emit


_power_of_two: Any = intrinsic(_type_power_of_two)


@kernel(fastmath=CONTRACT)
def exp(x):
    """eˣ of a float32 within 2 units in the last place; clamped to −87 … 88: never 0, never infinite. (Polynomial of Cephes' expf.)"""
    x = min(max(x, _LOWEST), _HIGHEST)
    exponent = (x * _LOG2_E + _ROUND) - _ROUND
    r = x - exponent * _LN2_HIGH - exponent * _LN2_LOW
    polynomial = ((((_C7 * r + _C6) * r + _C5) * r + _C4) * r + _C3) * r + _C2
    return (polynomial * r * r + r + _ONE) * _power_of_two(np.int32(exponent))
