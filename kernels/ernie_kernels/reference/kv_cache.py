"""Writing keys and values into the paged cache, and reading one request's back; knows no allocation."""

from __future__ import annotations

import numpy as np

from .. import xp
from ..xp import Tensor


def write_kv_cache(k: Tensor, v: Tensor, slot_mapping: Tensor, k_cache: Tensor, v_cache: Tensor) -> None:
    """cache[slot // block_size, slot % block_size] = row, in place. k, v [T, kv, d], slot_mapping int32 [T] (−1: padding, not written)."""
    slots = xp.to_numpy(slot_mapping)
    written = np.flatnonzero(slots >= 0).astype(np.int32)
    if written.size == 0:
        return
    rows = xp.from_numpy(written)
    used_slots = xp.from_numpy(slots[written])
    for cache, values in ((k_cache, k), (v_cache, v)):
        num_blocks, block_size, num_kv_heads, head_dim = cache.shape
        flat = xp.reshape(cache, [num_blocks * block_size, num_kv_heads, head_dim])
        xp.put_(flat, used_slots, xp.take(values, rows, axis=0))


def read_kv_cache(cache: Tensor, block_ids: Tensor, num_tokens: int) -> Tensor:
    """The first `num_tokens` rows of a request's blocks. cache [blocks, block_size, kv, d], block_ids int32 → [num_tokens, kv, d]."""
    _, block_size, num_kv_heads, head_dim = cache.shape
    blocks = xp.take(cache, block_ids, axis=0)
    return xp.reshape(blocks, [block_ids.shape[0] * block_size, num_kv_heads, head_dim])[:num_tokens]
