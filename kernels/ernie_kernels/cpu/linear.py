"""Matrix products with weights in float32 or bfloat16, plain and grouped by expert; knows no router."""

from __future__ import annotations

import numpy as np
from numba import prange

from .. import xp
from ..weights import LinearWeight
from ..xp import Tensor
from .compile import kernel, num_threads
from .tile import dot_rows

_ROW_BLOCK_ELEMENTS = 65536
"""Rows of x computed per pass over the weights: 256 KiB of them stay in the second-level cache beside the weights' strip."""


def linear(x: Tensor, w: LinearWeight) -> Tensor:
    """y = x Wᵀ. x [T, in] float32 → [T, out]."""
    num_tokens = x.shape[0]
    y = xp.empty([num_tokens, w.out_features], "float32")
    linear_into(xp.host_view(xp.contiguous(x)), w.array, xp.host_view(y))
    return y


def linear_into(x: np.ndarray, w: np.ndarray, y: np.ndarray) -> None:
    """`linear` on arrays: y[:] = x wᵀ."""
    grouped_linear_into(x, w[None], np.array([0, len(x)]), y)


def grouped_linear_into(x: np.ndarray, w: np.ndarray, starts: np.ndarray, y: np.ndarray) -> None:
    """y[i] = w[e] x[i] for starts[e] ≤ i < starts[e + 1]. x [N, in] float32, w [E, out, in], starts [E + 1] int64, y [N, out]."""
    assert x.dtype == y.dtype == np.float32 and x.shape[1] == w.shape[2] and y.shape == (len(x), w.shape[1])
    frozen = w.view()
    frozen.flags.writeable = False  # one compiled variant for both: weights mapped from a file cannot be written, others can
    _grouped_linear(x, frozen, starts, y, num_threads())


@kernel(parallel=True)
def _grouped_linear(x, w, starts, y, parts):
    num_groups, width, depth = w.shape
    row_block = max(4, _ROW_BLOCK_ELEMENTS // depth // 4 * 4)
    strips = (width + 3) // 4
    for part in prange(parts):
        first, last = strips * part // parts, strips * (part + 1) // parts
        for group in range(num_groups):
            start, stop = starts[group], starts[group + 1]
            for block_start in range(start, stop, row_block):
                block_stop = min(stop, block_start + row_block)
                for strip in range(first, last):
                    column = strip * 4
                    columns = min(4, width - column)
                    w_start = (group * width + column) * depth
                    for row in range(block_start, block_stop, 4):
                        rows = min(4, block_stop - row)
                        dot_rows(x, row * depth, depth, w, w_start, depth, depth, y, row * width + column, width, rows, columns)
