"""Calls every kernel once on tiny inputs, for each combination of types that serving meets; knows no model."""

from __future__ import annotations

import numpy as np

from .. import xp
from ..metadata import AttentionMetadata
from ..weights import BFLOAT16_BITS, ExpertWeights, LinearWeight
from . import attention, elementwise, linear, moe
from .compile import set_num_threads


def compile_kernels(num_threads: int | None) -> None:
    """Sets the number of threads (None: leave it at the process's cores) and compiles, or loads what an earlier process compiled."""
    if num_threads is not None:
        set_num_threads(num_threads)
    x = xp.zeros([1, 4], "float32")
    index = np.zeros((1, 1), np.int32)
    for dtype in (np.dtype(np.float32), BFLOAT16_BITS):
        linear.linear(x, LinearWeight(np.zeros((4, 4), dtype)))
    elementwise.rms_norm(x, x[0], 1e-5)
    elementwise.swiglu(x)
    experts = ExpertWeights(np.zeros((1, 4, 4), np.float32), np.zeros((1, 4, 2), np.float32))
    moe.moe_experts(x, *moe.route(x, xp.zeros([1, 4], "float32"), None, 1, 1e-12), experts)
    k_cache, v_cache = xp.zeros([1, 1, 1, 2], "float32"), xp.zeros([1, 1, 1, 2], "float32")
    zero = xp.from_numpy(index[0])
    q = elementwise.rotary_kv_write(xp.zeros([1, 6], "float32"), xp.zeros([1, 2], "float32"), zero, zero, k_cache, v_cache)
    bounds, lengths = np.array([0, 1], np.int32), np.ones(1, np.int32)
    device = [xp.from_numpy(a) for a in (bounds, lengths, index)]
    metadata = AttentionMetadata(device[0], device[1], device[2], bounds, lengths, index, 1, 1)
    attention.paged_attention(q, k_cache, v_cache, metadata, 1.0)
