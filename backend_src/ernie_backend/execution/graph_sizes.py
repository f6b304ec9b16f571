"""The sizes that steps are padded to, so that they can be CUDA graphs; captures none."""

from __future__ import annotations

from ernie_kernels import xp

from ..config import EngineConfig, ModelConfig

MOST_PROMPTS = 15
"""In a graph; with the one that fills up, sixteen programs for each tile of the longest prompt's queries, most of which end at once."""

_TOKENS = (16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
"""Of prompts. 21B-A3B on an H100, launched one by one and as a graph: 16 tokens 21.6 and 9.1 ms, 128 19.8 and 16.7, 512 21.7 and 20.4, 1024
26.3 and 27.5: there launching no longer takes longer than computing."""
_TOKENS_WITHOUT_EXPERTS = (*_TOKENS, 1536, 2048, 3072, 4096)
"""0.3B: 16 tokens 17.0 and 1.5 ms, 1024 16.0 and 2.7."""
_TOKENS_OF_OWN_KERNELS = 512
"""Up to here no product of the framework's is in a step (`ernie_kernels.gpu`)."""
_SINGLES = (0, 4, 16, 64)
"""Sequences that decode beside the prompts; also: all."""


def batch_buckets(max_num_seqs: int) -> list[int]:
    """Batch sizes that get a graph: a step is padded to the next one. Finer where a step costs most per row."""
    sizes = [1, 2, 4, 8, *range(16, 128, 16), *range(128, 256, 32), *range(256, max_num_seqs, 64)]
    return [size for size in sizes if size < max_num_seqs] + [max_num_seqs]


def prompt_buckets(config: EngineConfig, model: ModelConfig) -> tuple[list[int], list[int]]:
    """Numbers of sequences that decode beside prompts, and of the prompts' tokens, that get a graph together."""
    assert config.max_num_batched_tokens is not None, "call resolved() first"
    most = config.max_num_seqs - 1  # at least one is a prompt
    sizes = _TOKENS if model.num_experts else _TOKENS_WITHOUT_EXPERTS
    return [size for size in _SINGLES if size < most] + [most], [size for size in sizes if size <= config.max_num_batched_tokens]


def can_be_captured(num_tokens: int) -> bool:
    """Paddle's own products were never seen within a capture: a step that needs them is launched there."""
    return xp.name == "torch" or num_tokens <= _TOKENS_OF_OWN_KERNELS
