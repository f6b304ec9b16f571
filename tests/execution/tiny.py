"""A tiny random model folder for tests that only need some model."""

from __future__ import annotations

import json
from pathlib import Path

from ernie_backend.checkpoint_writer.published import make_config
from ernie_backend.checkpoint_writer.random_weights import RandomWeights
from ernie_backend.config import ModelConfig

_SIZES = ["hidden_size=64", "num_hidden_layers=2", "num_attention_heads=4", "num_key_value_heads=2", "head_dim=16", "vocab_size=600"]
_MOE_SIZES = ["moe_num_experts=8", "moe_k=2", "moe_intermediate_size=32"]


def write_tiny(
    folder: Path, *settings: str, moe: bool = False, flavour: str = "pt", dtype: str = "float32", shard_bytes: int = 10**9
) -> ModelConfig:
    """config.json and weights (no tokenizer) of a 2-layer model with 600 token ids."""
    like = "ERNIE-4.5-21B-A3B" if moe else "ERNIE-4.5-0.3B"
    config, model = make_config(like, flavour, dtype, [*_SIZES, "intermediate_size=96", *(_MOE_SIZES if moe else []), *settings])
    folder.mkdir(exist_ok=True)
    RandomWeights(model, flavour, dtype, seed=1).write(folder, shard_bytes)
    (folder / "config.json").write_text(json.dumps(config))
    return model
