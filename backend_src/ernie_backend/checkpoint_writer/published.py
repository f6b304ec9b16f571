"""The configuration files of the published models, for random checkpoints; writes nothing.

Sizes: the transformers and FastDeploy sources; whether the 300B model and PaddleOCR-VL tie their embeddings is not known (untied here,
as in VL-424B and as the latter's name, 0.9B, says).
"""

from __future__ import annotations

import copy
import json
from typing import Any

from ..config import ModelConfig
from ..errors import CheckpointError, ConfigError
from ..model_config import CLIP_MEAN, CLIP_STD, MERGE_SIZE
from .tokenizer import IMAGE_START_ID, special_tokens

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

_VL = {
    **_COMMON,
    **_MOE,
    "model_type": "ernie4_5_moe_vl",
    "moe_num_experts": [64, 64],
    "rope_3d": True,
    "freq_allocation": 20,
    "spatial_conv_size": MERGE_SIZE,
    "temporal_conv_size": MERGE_SIZE,
    "pixel_hidden_size": 1280,
    "vision_config": {
        "model_type": "DFNRope_vision_transformer",
        "depth": 32,
        "embed_dim": 1280,
        "hidden_act": "quick_gelu",
        "hidden_size": 1280,
        "in_channels": 3,
        "mlp_ratio": 4,
        "num_heads": 16,
        "patch_size": 14,
        "spatial_merge_size": MERGE_SIZE,
    },
}
_VL_28B_A3B = {
    **_VL,
    "hidden_size": 2560,
    "intermediate_size": 12288,
    "num_attention_heads": 20,
    "num_key_value_heads": 4,
    "num_hidden_layers": 28,
    "moe_intermediate_size": [1536, 512],
    "moe_k": 6,
    "moe_num_shared_experts": 2,
    "moe_layer_start_index": [1, 1],
    "moe_layer_end_index": [29, 28],
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
    "ERNIE-4.5-VL-28B-A3B": _VL_28B_A3B,
    "ERNIE-4.5-VL-28B-A3B-Thinking": _VL_28B_A3B,
    "ERNIE-4.5-VL-424B-A47B": {
        **_VL,
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "num_hidden_layers": 54,
        "moe_intermediate_size": [3584, 1536],
        "moe_k": 8,
        "moe_num_shared_experts": 0,
        "moe_layer_start_index": [3, 3],
        "moe_layer_end_index": [53, 53],
        "tie_word_embeddings": False,
    },
    "PaddleOCR-VL-0.9B": {
        **_COMMON,
        "model_type": "paddleocr_vl",
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "num_hidden_layers": 18,
        "tie_word_embeddings": False,
        "rope_is_neox_style": True,
        "rope_scaling": {"mrope_section": [16, 24, 24], "rope_type": "default", "type": "default"},
        "vision_config": {
            "model_type": "paddleocr_vl",
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_size": 1152,
            "image_size": 384,
            "intermediate_size": 4304,
            "layer_norm_eps": 1e-06,
            "num_attention_heads": 16,
            "num_channels": 3,
            "num_hidden_layers": 27,
            "patch_size": 14,
            "spatial_merge_size": 2,
        },
    },
}

_AREA = 28 * 28
_PREPROCESSOR = {
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": list(CLIP_MEAN),
    "image_std": list(CLIP_STD),
    "merge_size": MERGE_SIZE,
    "patch_size": 14,
    "resample": 3,
    "rescale_factor": 1 / 255,
}
_PREPROCESSORS = {
    "ernie4_5_moe_vl": {
        **_PREPROCESSOR,
        "image_processor_type": "Ernie4_5_VLMoeImageProcessor",
        "min_pixels": 4 * _AREA,
        "max_pixels": 6177 * _AREA,
        "temporal_patch_size": MERGE_SIZE,
    },
    "paddleocr_vl": {
        **_PREPROCESSOR,
        "image_processor_type": "PaddleOCRVLImageProcessor",
        "min_pixels": 147_384,
        "max_pixels": 3600 * _AREA,
        "temporal_patch_size": 1,
    },
}
"""By model_type; pixel limits are PaddleFormers' and PaddleX's."""
_MEDIA_TOKENS = {
    "ernie4_5_moe_vl": {
        "im_patch_id": "<|IMAGE_PLACEHOLDER|>",
        "image_start_token_id": "<|IMAGE_START|>",
        "image_end_token_id": "<|IMAGE_END|>",
        "video_start_token_id": "<|VIDEO_START|>",
        "video_end_token_id": "<|VIDEO_END|>",
    },
    "paddleocr_vl": {
        "image_token_id": "<|IMAGE_PLACEHOLDER|>",
        "video_token_id": "<|AUDIO_PLACEHOLDER|>",
        "vision_start_token_id": "<|IMAGE_START|>",
        "vision_end_token_id": "<|IMAGE_END|>",
    },
}
"""Keys of config.json that hold a token's id, by model_type: in a small vocabulary it stands elsewhere."""
_ARCHITECTURES = {
    "ernie4_5_moe": "Ernie4_5_MoeForCausalLM",
    "ernie4_5_moe_vl": "Ernie4_5_VLMoeForConditionalGeneration",
    "paddleocr_vl": "PaddleOCRVLForConditionalGeneration",
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
    config = copy.deepcopy(MODELS[like])
    model_type = config["model_type"]
    if model_type == "paddleocr_vl" and flavour != "pt":
        raise ConfigError("--flavour: PaddleOCR-VL is published in one layout, pt.", param="flavour")
    for setting in settings:
        _apply_setting(setting, config)
    ids = {name: token for token, name in special_tokens(config["vocab_size"], image_start(like)).items()}
    config |= {key: ids[name] for key, name in _MEDIA_TOKENS.get(model_type, {}).items()}
    if "embed_dim" in config.get("vision_config", {}):
        config["pixel_hidden_size"] = config["vision_config"]["hidden_size"] = config["vision_config"]["embed_dim"]
    name = _ARCHITECTURES.get(model_type, "Ernie4_5ForCausalLM" if flavour == "pt" else "Ernie4_5_ForCausalLM")
    config = {"architectures": [name], **config, "torch_dtype" if flavour == "pt" else "dtype": dtype}
    try:
        model = ModelConfig.from_json(config)
    except CheckpointError as error:
        raise ConfigError(error.message.replace("config.json: ", "--set: "), param=error.param) from None
    return config, model


def image_start(like: str) -> int:
    """Where the published vocabulary of `like` has `<|IMAGE_START|>`."""
    return IMAGE_START_ID + 1 if MODELS[like]["model_type"] == "paddleocr_vl" else IMAGE_START_ID


def preprocessor_config(config: dict[str, Any]) -> dict[str, Any] | None:
    """preprocessor_config.json beside a `config` of `make_config`; None for a text model."""
    found = _PREPROCESSORS.get(config["model_type"])
    return None if found is None else {**found, "patch_size": config["vision_config"]["patch_size"]}


def _apply_setting(setting: str, config: dict[str, Any]) -> None:
    """Change the key that `setting` names; `vision_config.depth` is one within an object."""
    path, equals, text = setting.partition("=")
    if not equals:
        raise ConfigError(f"--set needs KEY=VALUE, got {setting!r}.", param="set")
    *outer, key = path.split(".")
    target = config
    for name in outer:
        target = target[name] if isinstance(target.get(name), dict) else {}
    if key not in target or key == "model_type":
        objects = {name: given for name, given in config.items() if isinstance(given, dict)}
        inner = {f"{name}.{within}" for name, given in objects.items() for within in given}
        known = ", ".join(sorted(name for name in {*config, *inner} if not name.endswith("model_type")))
        raise ConfigError(f"--set: unknown key {path!r}. This model has: {known}.", param="set")
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    wanted = type(target[key])
    if wanted is float and type(value) is int:
        value = float(value)
    if type(value) is not wanted:
        raise ConfigError(f"--set {path}: needs a value like {json.dumps(target[key])}, got {text!r}.", param=path)
    target[key] = value
