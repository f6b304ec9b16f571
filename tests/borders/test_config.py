"""Engine settings and config.json: defaults, checks, and the three published shapes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ernie_backend.config import EngineConfig, ModelConfig
from ernie_backend.errors import CheckpointError, ConfigError

DENSE = {
    "architectures": ["Ernie4_5ForCausalLM"],
    "hidden_size": 1024,
    "num_hidden_layers": 18,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "intermediate_size": 3072,
}
MOE = {**DENSE, "architectures": ["Ernie4_5_MoeForCausalLM"], "moe_num_experts": 64, "moe_k": 6, "moe_intermediate_size": 1536}


def test_defaults_of_missing_keys() -> None:
    config = ModelConfig.from_json(DENSE)
    assert (config.vocab_size, config.rope_theta, config.rms_norm_eps, config.max_position_embeddings) == (103424, 500000.0, 1e-5, 131072)
    assert config.architecture == "dense" and config.tie_word_embeddings and config.eos_token_ids == (2,)
    assert config.kv_elements_per_token * 2 == 18_432, "KV bytes per token in bf16"
    assert not any(config.is_sparse(layer) for layer in range(18))


@pytest.mark.parametrize(("end", "last"), [(29, 17), (-1, 17), (5, 5)])
def test_the_last_sparse_layer_is_clipped(end: int, last: int) -> None:
    config = ModelConfig.from_json({**MOE, "moe_layer_start_index": 1, "moe_layer_end_index": end})
    assert [layer for layer in range(18) if config.is_sparse(layer)] == list(range(1, last + 1))


def test_the_interval_counts_from_one() -> None:
    config = ModelConfig.from_json({**MOE, "moe_layer_interval": 2, "moe_layer_start_index": 0})
    assert [layer for layer in range(6) if config.is_sparse(layer)] == [1, 3, 5]


def test_no_shared_experts_may_be_written_as_null() -> None:
    assert ModelConfig.from_json({**MOE, "moe_num_shared_experts": None}).num_shared_experts == 0
    assert ModelConfig.from_json(MOE).num_shared_experts == 2


def test_transformers_5_nests_the_rotary_base() -> None:
    config = ModelConfig.from_json({**DENSE, "rope_parameters": {"rope_theta": 1000.0, "rope_type": "default"}})
    assert config.rope_theta == 1000.0


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "architectures"),
        ({"architectures": None, "model_type": "qwen"}, "architectures"),
        ({"use_bias": True}, "use_bias"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"rope_scaling": {"type": "yarn"}}, "rope_scaling"),
        ({"rope_parameters": {"rope_type": "linear"}}, "rope_parameters"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantization_config"),
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"hidden_size": None}, "hidden_size"),
        ({"hidden_size": "big"}, "hidden_size"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"rms_norm_eps": -1}, "rms_norm_eps"),
        ({"eos_token_id": "</s>"}, "eos_token_id"),
        ({"head_dim": 127}, "head_dim"),
    ],
)
def test_refused_config_json(change: dict[str, object], param: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        ModelConfig.from_json({**DENSE, **change})
    assert caught.value.param == param


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    for folder, text in ((tmp_path / "no", "does not exist"), (tmp_path, "no config.json")):
        with pytest.raises(CheckpointError, match=text):
            ModelConfig.from_folder(folder)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        ModelConfig.from_folder(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="JSON object"):
        ModelConfig.from_folder(tmp_path)


def test_resolved_decides_lengths() -> None:
    model = ModelConfig.from_json(DENSE)
    config = EngineConfig(model="m").resolved(model)
    assert (config.max_model_len, config.max_num_batched_tokens, config.blocks_per_sequence) == (4096, 2048, 64)
    short = ModelConfig.from_json({**DENSE, "max_position_embeddings": 512})
    assert EngineConfig(model="m").resolved(short).max_model_len == 512
    whole = EngineConfig(model="m", max_model_len=4096, enable_chunked_prefill=False).resolved(model)
    assert whole.max_num_batched_tokens == 4096


@pytest.mark.parametrize(
    ("values", "param"),
    [
        ({"max_model_len": 200_000}, "max_model_len"),
        ({"max_num_batched_tokens": 4}, "max_num_batched_tokens"),
        ({"max_num_batched_tokens": 1024, "enable_chunked_prefill": False}, "max_num_batched_tokens"),
    ],
)
def test_resolved_refuses(values: dict[str, object], param: str) -> None:
    with pytest.raises(ConfigError) as caught:
        EngineConfig(model="m", **values).resolved(ModelConfig.from_json(DENSE))  # type: ignore[arg-type]
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({}, "model"),
        ({"model": "m", "speed": 1}, "speed"),
        ({"model": "m", "max_num_seqs": "many"}, "max_num_seqs"),
        ({"model": "m", "max_num_seqs": 0}, "max_num_seqs"),
        ({"model": "m", "block_size_tokens": 48}, "block_size_tokens"),
        ({"model": "m", "gpu_memory_utilization": 1.5}, "gpu_memory_utilization"),
        ({"model": "m", "enable_prefix_caching": "perhaps"}, "enable_prefix_caching"),
        ({"model": "m", "seed": -1}, "seed"),
        ({"model": "m", "load_format": "gguf"}, "load_format"),
    ],
)
def test_refused_settings(given: dict[str, object], param: str) -> None:
    with pytest.raises(ConfigError) as caught:
        EngineConfig.from_mapping(given)
    assert caught.value.param == param


def test_strings_of_config_pbtxt_and_json_give_the_same(tmp_path: Path) -> None:
    strings = {"model": "m", "max_num_seqs": "16", "enable_prefix_caching": "false", "gpu_memory_utilization": "0.5", "num_blocks": ""}
    config = EngineConfig.from_mapping(strings)
    assert config == EngineConfig(model="m", max_num_seqs=16, enable_prefix_caching=False, gpu_memory_utilization=0.5)
    (tmp_path / "c.json").write_text(config.to_json())
    assert EngineConfig.from_json_file(tmp_path / "c.json") == config
    assert json.loads(config.to_json())["max_num_seqs"] == 16
    with pytest.raises(ConfigError, match="Cannot read"):
        EngineConfig.from_json_file(tmp_path / "absent.json")
