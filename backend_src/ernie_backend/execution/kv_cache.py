"""The paged key and value caches of all layers; owns the memory, knows no sequence and no block's owner."""

from __future__ import annotations

from dataclasses import dataclass

from ernie_kernels import ops, xp
from ernie_kernels.xp import Tensor

from ..config import ModelConfig

BYTES_PER_ELEMENT = {"float32": 4, "bfloat16": 2}[ops.cache_dtype]
"""Of keys and values, and of activations."""


@dataclass(frozen=True)
class LayerCache:
    """One layer's keys and values; changed in place."""

    k: Tensor  # [num_blocks, block_size, num_kv_heads, head_dim]
    v: Tensor  # [num_blocks, block_size, num_kv_heads, head_dim]


def allocate_kv_cache(config: ModelConfig, num_blocks: int, block_size: int) -> tuple[LayerCache, ...]:
    """Zeroed caches, one pair per layer, of `ops.cache_dtype`, `num_blocks · kv_cache_bytes_per_block` in all."""
    shape = [num_blocks, block_size, config.num_kv_heads, config.head_dim]
    return tuple(LayerCache(xp.zeros(shape, ops.cache_dtype), xp.zeros(shape, ops.cache_dtype)) for _ in range(config.num_layers))


def kv_cache_bytes_per_block(config: ModelConfig, block_size: int) -> int:
    """Bytes that one block takes in all layers together."""
    return config.kv_elements_per_token * block_size * BYTES_PER_ELEMENT
