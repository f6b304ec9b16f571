"""How much memory the KV cache may take, once the model is loaded; allocates nothing."""

from __future__ import annotations

import os

from ernie_kernels import xp

from ..config import EngineConfig, ModelConfig
from ..model_config import VisionConfig
from .graph_sizes import prompt_buckets
from .kv_cache import BYTES_PER_ELEMENT
from .models.vision_tower import PATCHES_AT_ONCE

CPU_CACHE_SHARE = 0.5
"""Of the memory that is still free once the model is loaded: the rest is for activations, the other processes and the page cache."""
_GPU_RESERVE_BYTES = 2**30
"""For loaded kernels, graphs and what the framework's allocator loses between blocks."""
_ENCODER_CACHE_BYTES = 2**29
"""Unless the configuration says otherwise."""


def cache_budget_bytes(config: EngineConfig, model_config: ModelConfig) -> int:
    """GPU: what gpu_memory_utilization leaves beside the weights and the largest step. CPU: a share of what is free."""
    if not xp.on_gpu:
        return int(_free_host_bytes() * CPU_CACHE_SHARE)
    total = xp.total_memory_bytes()
    used = total - xp.free_memory_bytes()
    needed = step_bytes(config, model_config) + _GPU_RESERVE_BYTES
    if model_config.vision is not None:
        needed += encoder_bytes(model_config.vision) + encoder_cache_bytes(config, model_config)
    return int(total * config.gpu_memory_utilization) - used - needed


def step_bytes(config: EngineConfig, model_config: ModelConfig) -> int:
    """Activations of the longest step and of the longest graph with prompts in bfloat16, as if none of a layer's were freed, and the
    sampler's rows of the vocabulary."""
    assert config.max_num_batched_tokens is not None, "call resolved() first"
    model = model_config
    attention = (3 * model.num_heads + 2 * model.num_kv_heads) * model.head_dim
    widths = 4 * model.hidden_size + attention + 3 * model.intermediate_size
    if model.num_experts:
        shared = model.num_shared_experts * model.moe_intermediate_size
        kinds = [width for width in (model.moe_intermediate_size, model.vision_moe_intermediate_size) if width]
        widths += max((model.experts_per_token + shared // width) * (width + model.hidden_size) for width in kinds)
    logits, adjusted, counts = 4, 4, 4
    singles, tokens = prompt_buckets(config, model)
    graph_tokens = singles[-1] + max(tokens, default=0)
    return (
        2 * widths * (config.max_num_batched_tokens + graph_tokens) + (logits + adjusted + counts) * model.vocab_size * config.max_num_seqs
    )


def encoder_bytes(vision: VisionConfig) -> int:
    """Activations of the tower and what follows it in bfloat16, for as many patches as it takes at once."""
    qkv, attended, residual, normed, resampler = 3, 1, 2, 1, 6
    widths = (qkv + attended + residual + normed + resampler) * vision.hidden_size + 2 * vision.intermediate_size
    return 2 * widths * PATCHES_AT_ONCE


def encoder_cache_bytes(config: EngineConfig, model_config: ModelConfig) -> int:
    """What encoded images and videos may take that nobody is reading."""
    if config.max_encoder_cache_tokens < 0:
        return _ENCODER_CACHE_BYTES
    return config.max_encoder_cache_tokens * model_config.hidden_size * BYTES_PER_ELEMENT


def _free_host_bytes() -> int:
    """Memory that can be taken without swapping (Linux: MemAvailable)."""
    with open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
