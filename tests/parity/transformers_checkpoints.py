"""Small random ERNIE-4.5 models made and saved by transformers itself, and the same weights in other layouts."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import Ernie4_5_MoeConfig, Ernie4_5_MoeForCausalLM, Ernie4_5Config, Ernie4_5ForCausalLM

DENSE = {"model": "dense", "num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 160, "vocab_size": 512, "head_dim": 16}
MOE = {
    **DENSE,
    **{"model": "moe", "num_hidden_layers": 3, "moe_num_experts": 8, "moe_k": 2, "moe_intermediate_size": 48, "moe_num_shared_experts": 2},
    **{"moe_layer_start_index": 1, "moe_layer_end_index": -1},
}
CASES = {
    "dense-tied-gqa2": {**DENSE, "num_attention_heads": 4, "num_key_value_heads": 2},
    "dense-untied-mqa": {
        **DENSE,
        "num_attention_heads": 6,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "hidden_size": 96,
        "tie_word_embeddings": False,
    },
    "dense-wide-heads": {
        **DENSE,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "num_hidden_layers": 3,
        "vocab_size": 1001,
    },
    "moe-shared-1-dense": {**MOE, "num_attention_heads": 4, "num_key_value_heads": 2},
    "moe-unshared-3-dense": {
        **MOE,
        **{
            "num_hidden_layers": 5,
            "num_attention_heads": 8,
            "num_key_value_heads": 1,
            "moe_num_shared_experts": 0,
            "moe_layer_start_index": 3,
        },
        **{"moe_k": 4, "tie_word_embeddings": False},
    },
    "moe-square-router": {
        **MOE,
        "num_attention_heads": 10,
        "num_key_value_heads": 2,
        "moe_num_experts": 64,
        "moe_k": 6,
        "moe_intermediate_size": 24,
    },
}
"""Several sizes, GQA ratios 1 to 8, 1 and 3 dense layers, with and without shared experts, tied and untied; 64 experts = hidden size."""


def make_model(case: dict, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """A transformers model: linears N(0, 0.05), norms near 1 and a correction bias that changes which experts are chosen."""
    settings = {"tie_word_embeddings": True, "max_position_embeddings": 512, **case}
    kind = settings.pop("model")
    generator = torch.Generator().manual_seed(seed)
    config = Ernie4_5_MoeConfig(**settings) if kind == "moe" else Ernie4_5Config(**settings)
    model = (Ernie4_5_MoeForCausalLM if kind == "moe" else Ernie4_5ForCausalLM)(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = torch.randn(parameter.shape, generator=generator)
            if "norm" in name:
                parameter.copy_(1 + 0.1 * values)
            else:
                parameter.copy_(0.05 * values)  # the correction bias too: probabilities of 8 experts differ by as much
    return model.to(dtype)


def save_as_paddle(source: Path, target: Path, shards: int = 1) -> None:
    """The checkpoint in `source`, which transformers saved, in the published -Paddle layout: [in, out], fused, prefix `ernie.`."""
    target.mkdir()
    config = json.loads((source / "config.json").read_text())
    config["architectures"] = [name.replace("Ernie4_5For", "Ernie4_5_For") for name in config["architectures"]]
    config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
    (target / "config.json").write_text(json.dumps(config))
    old = load_file(source / "model.safetensors")
    new: dict[str, torch.Tensor] = {}
    for name, tensor in old.items():
        renamed = re.sub(r"^model\.", "ernie.", name)
        linear = tensor.ndim == 2 and "embed_tokens" not in name and "bias" not in name
        if "q_proj" in name:
            parts = [old[name.replace("q_proj", part)].T for part in ("q_proj", "k_proj", "v_proj")]
            new[renamed.replace("q_proj", "qkv_proj")] = torch.cat(parts, dim=1).contiguous()
        elif ".gate_proj" in name:
            parts = [tensor.T, old[name.replace("gate_proj", "up_proj")].T]
            new[renamed.replace("gate_proj", "up_gate_proj")] = torch.cat(parts, dim=1).contiguous()
        elif not re.search(r"\.(k_proj|v_proj|up_proj)\.", name):
            new[renamed] = tensor.T.contiguous() if linear else tensor
    save_shards(new, target, shards)


def save_shards(tensors: dict[str, torch.Tensor], target: Path, shards: int) -> None:
    """One `model.safetensors`, or that many shards with an index; fused parts that belong together land in different shards."""
    if shards == 1:
        save_file(tensors, target / "model.safetensors")
        return
    weight_map = {}
    for shard in range(shards):
        file_name = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = {name: tensor for i, (name, tensor) in enumerate(tensors.items()) if i % shards == shard}
        save_file(part, target / file_name)
        weight_map |= dict.fromkeys(part, file_name)
    (target / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
