"""The config.json and generation_config.json of the published ERNIE-4.5 text models, for random checkpoints; writes nothing.

Sizes: the transformers and FastDeploy sources; whether the 300B model ties its embeddings is not known (untied here, as in VL-424B).
"""

from __future__ import annotations

import json
from typing import Any

from ..config import ModelConfig
from ..errors import CheckpointError, ConfigError

_COMMON = {
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "head_dim": 128,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-05,
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "use_bias": False,
    "use_cache": False,
    "vocab_size": 103424,
}
_MOE = {"moe_num_experts": 64, "moe_layer_interval": 1, "moe_capacity": [64, 64, 64], "moe_gate": "topk", "moe_use_aux_free": True}

_21B_A3B = {
    **_COMMON,
    **_MOE,
    "model_type": "ernie4_5_moe",
    "hidden_size": 2560,
    "intermediate_size": 12288,
    "num_attention_heads": 20,
    "num_key_value_heads": 4,
    "num_hidden_layers": 28,
    "moe_intermediate_size": 1536,
    "moe_k": 6,
    "moe_num_shared_experts": 2,
    "moe_layer_start_index": 1,
    "moe_layer_end_index": 27,
}

MODELS: dict[str, dict[str, Any]] = {
    "ERNIE-4.5-0.3B": {
        **_COMMON,
        "model_type": "ernie4_5",
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "num_hidden_layers": 18,
    },
    "ERNIE-4.5-21B-A3B": _21B_A3B,
    "ERNIE-4.5-21B-A3B-Thinking": _21B_A3B,
    "ERNIE-4.5-300B-A47B": {
        **_COMMON,
        **_MOE,
        "model_type": "ernie4_5_moe",
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "num_hidden_layers": 54,
        "moe_intermediate_size": 3584,
        "moe_k": 8,
        "moe_num_shared_experts": 0,
        "moe_layer_start_index": 3,
        "moe_layer_end_index": 53,
        "tie_word_embeddings": False,
    },
}

GENERATION_CONFIG = {
    "do_sample": True,
    "temperature": 0.8,
    "top_p": 0.8,
    "repetition_penalty": 1.0,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def make_config(like: str, flavour: str, dtype: str, settings: list[str]) -> tuple[dict[str, Any], ModelConfig]:
    """config.json of `like` with `settings` (`key=value`) changed, and what it means. Raises `ConfigError` naming the setting."""
    config = dict(MODELS[like])
    for setting in settings:
        key, value = _parse_setting(setting, config)
        config[key] = value
    moe = config["model_type"] == "ernie4_5_moe"
    name = "Ernie4_5_MoeForCausalLM" if moe else "Ernie4_5ForCausalLM" if flavour == "pt" else "Ernie4_5_ForCausalLM"
    config = {"architectures": [name], **config, "torch_dtype" if flavour == "pt" else "dtype": dtype}
    try:
        model = ModelConfig.from_json(config)
    except CheckpointError as error:
        raise ConfigError(error.message.replace("config.json: ", "--set: "), param=error.param) from None
    if model.experts_per_token > model.num_experts:
        raise ConfigError(f"--set: moe_k ({model.experts_per_token}) exceeds moe_num_experts ({model.num_experts}).", param="moe_k")
    return config, model


def _parse_setting(setting: str, config: dict[str, Any]) -> tuple[str, Any]:
    key, equals, text = setting.partition("=")
    if not equals:
        raise ConfigError(f"--set needs KEY=VALUE, got {setting!r}.", param="set")
    if key not in config or key == "model_type":
        known = ", ".join(sorted(set(config) - {"model_type"}))
        raise ConfigError(f"--set: unknown key {key!r}. This model has: {known}.", param="set")
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    wanted = type(config[key])
    if wanted is float and type(value) is int:
        value = float(value)
    if type(value) is not wanted:
        raise ConfigError(f"--set {key}: needs a value like {json.dumps(config[key])}, got {text!r}.", param=key)
    return key, value
