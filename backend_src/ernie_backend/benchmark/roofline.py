"""What the machine can do, measured now, and what a step must cost at least; knows no engine.

D(B) = E · (1 − (1 − k/E)^B) distinct experts are read by B tokens if routing is uniform. A decode step reads each weight once (router
float32, experts D(B) of E) and all keys and values; its floor is the larger of bytes / read bandwidth and operations / matrix throughput.
Activations and sampling are left out (about 1 %). A prompt of S tokens costs 2 · (active − head) · S + 2 · head + causal attention of
2 · S² · heads · d · layers operations, and reads every weight once.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

from ernie_kernels import xp

from ..config import ModelConfig
from .timing import timed

_GPU_BYTES, _CPU_BYTES = 2**32, 2**27
_GPU_SIDE, _CPU_SIDE = 8192, 512


@dataclass(frozen=True)
class Ceilings:
    """Bytes and operations per second."""

    copy: float
    """Read and written bytes both count."""
    read: float
    matmul: float


def measure_ceilings() -> Ceilings:
    """Copy and read bandwidth over 4 GiB and bfloat16 8192³ (CPU: 128 MiB and float32 512³)."""
    elements, dtype = (_GPU_BYTES // 4 if xp.on_gpu else _CPU_BYTES // 4), "float32"
    source = xp.random_normal([elements // 1024, 1024], 1.0, dtype)
    target = xp.zeros([elements // 1024, 1024], dtype)
    copy = _seconds(lambda: xp.copy_(target, source))
    read = _seconds(lambda: xp.sum(xp.reshape(source, [elements]), 0))
    side = _GPU_SIDE if xp.on_gpu else _CPU_SIDE
    a, b = (xp.random_normal([side, side], 1.0, "bfloat16" if xp.on_gpu else "float32") for _ in range(2))
    matmul = _seconds(lambda: xp.matmul_transposed(a, b))
    return Ceilings(2 * 4 * elements / copy, 4 * elements / read, 2 * side**3 / matmul)


def _seconds(function: Callable[[], object], repeats: int = 10) -> float:
    function()
    return statistics.median(timed(function) for _ in range(repeats))


def distinct_experts(config: ModelConfig, batch: int) -> float:
    """Expected number of experts that `batch` tokens choose in one layer."""
    return 0.0 if not config.num_experts else config.num_experts * (1 - (1 - config.experts_per_token / config.num_experts) ** batch)


@dataclass(frozen=True)
class ModelWork:
    """Parameters by what reads them."""

    every_token: int
    """Attention, dense and shared MLPs."""
    router: int
    head: int
    expert: int
    sparse_layers: int

    @classmethod
    def of(cls, config: ModelConfig) -> ModelWork:
        hidden, sparse = config.hidden_size, sum(config.is_sparse(i) for i in range(config.num_layers))
        attention = (2 * config.num_heads + 2 * config.num_kv_heads) * config.head_dim * hidden * config.num_layers
        dense = 3 * hidden * config.intermediate_size * (config.num_layers - sparse)
        expert = 3 * hidden * config.moe_intermediate_size
        shared = expert * config.num_shared_experts * sparse
        return cls(attention + dense + shared, config.num_experts * hidden * sparse, config.vocab_size * hidden, expert, sparse)

    def active(self, config: ModelConfig) -> int:
        """Parameters that one token meets."""
        return self.every_token + self.router + self.head + self.expert * config.experts_per_token * self.sparse_layers


def decode_floor_seconds(config: ModelConfig, ceilings: Ceilings, batch: int, context: int) -> float:
    """Of one decode step of `batch` sequences of `context` cached tokens."""
    work, element = ModelWork.of(config), 2 if xp.on_gpu else 4
    weights = (
        work.every_token + work.head + work.expert * distinct_experts(config, batch) * work.sparse_layers
    ) * element + work.router * 4
    cache = batch * context * config.kv_elements_per_token * element
    attention = 4 * context * config.num_heads * config.head_dim * config.num_layers
    operations = batch * (2 * work.active(config) + attention)
    return max((weights + cache) / ceilings.read, operations / ceilings.matmul)


def prefill_floor_seconds(config: ModelConfig, ceilings: Ceilings, prompts: int, length: int) -> float:
    """Of computing `prompts` prompts of `length` tokens and the first token of each."""
    work, element = ModelWork.of(config), 2 if xp.on_gpu else 4
    attention = 2 * length**2 * config.num_heads * config.head_dim * config.num_layers
    operations = prompts * (2 * (work.active(config) - work.head) * length + 2 * work.head + attention)
    experts = distinct_experts(config, prompts * length)
    weights = (work.every_token + work.head + work.expert * experts * work.sparse_layers) * element + work.router * 4
    return max(weights / ceilings.read, operations / ceilings.matmul)
