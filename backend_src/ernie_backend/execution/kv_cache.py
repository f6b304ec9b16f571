"""The paged key and value caches of all layers; owns the memory, knows no sequence and no block's owner."""

from __future__ import annotations

from dataclasses import dataclass

from ernie_kernels import xp
from ernie_kernels.xp import Tensor

from ..config import ModelConfig

_BYTES_PER_ELEMENT = 4
_DTYPE = "float32"
"""Activations on the CPU are float32, and so is what is cached of them."""


@dataclass(frozen=True)
class LayerCache:
    """One layer's keys and values; changed in place."""

    k: Tensor  # [num_blocks, block_size, num_kv_heads, head_dim] float32
    v: Tensor  # [num_blocks, block_size, num_kv_heads, head_dim] float32


def allocate_kv_cache(config: ModelConfig, num_blocks: int, block_size: int) -> tuple[LayerCache, ...]:
    """Zeroed caches, one pair per layer, `num_blocks · kv_cache_bytes_per_block` in all."""
    shape = [num_blocks, block_size, config.num_kv_heads, config.head_dim]
    return tuple(LayerCache(xp.zeros(shape, _DTYPE), xp.zeros(shape, _DTYPE)) for _ in range(config.num_layers))


def kv_cache_bytes_per_block(config: ModelConfig, block_size: int) -> int:
    """Bytes that one block takes in all layers together."""
    return config.kv_elements_per_token * block_size * _BYTES_PER_ELEMENT
