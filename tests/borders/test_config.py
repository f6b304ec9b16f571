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


def test_a_factor_of_one_is_none() -> None:
    for factor in (None, 1, 1.0):
        assert ModelConfig.from_json({**DENSE, "rope_scaling": {"type": "default", "factor": factor}}) == ModelConfig.from_json(DENSE)


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
        ({"eos_token_id": 103424}, "eos_token_id"),
        ({"eos_token_id": [2, -1]}, "eos_token_id"),
        ({"eos_token_id": True}, "eos_token_id"),
        ({"architectures": 7}, "architectures"),
        ({"architectures": [["Ernie4_5ForCausalLM"]]}, "architectures"),
        ({"text_config": [1]}, "text_config"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings"),
        ({"compression_ratio": 4.0}, "compression_ratio"),
        ({"rope_scaling": {"factor": 4.0}}, "rope_scaling"),
        ({**MOE, "moe_k": 65}, "moe_k"),
        ({**MOE, "moe_use_aux_free": "no"}, "moe_use_aux_free"),
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
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match="nested too deeply"):
        ModelConfig.from_folder(tmp_path)
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").mkdir()
    with pytest.raises(CheckpointError, match=r"config.json' cannot be read: Is a directory\."):
        ModelConfig.from_folder(tmp_path)


@pytest.mark.parametrize("inner", ["ERNIE-4.5-0.3B-PT", "snapshots/c0ffee", "models--baidu--ERNIE-4.5-0.3B-PT/snapshots/c0ffee"])
def test_a_folder_around_a_models_folder(tmp_path: Path, inner: str) -> None:
    """One with several models, or of Hugging Face's cache: the error names what may have been meant."""
    (tmp_path / inner).mkdir(parents=True)
    (tmp_path / inner / "config.json").write_text("{}")
    with pytest.raises(CheckpointError) as caught:
        ModelConfig.from_folder(tmp_path)
    assert caught.value.message.endswith(f"has no config.json. Is the model in one of these? {tmp_path / inner}")


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


VL = {
    **MOE,
    "architectures": ["Ernie4_5_VLMoeForConditionalGeneration"],
    **{"moe_num_experts": [64, 64], "moe_intermediate_size": [1536, 512], "moe_layer_start_index": [1, 1], "moe_layer_end_index": [29, 28]},
    "vision_config": {"depth": 2, "embed_dim": 1280, "hidden_size": 3584},
}
OCR = {**DENSE, "architectures": ["PaddleOCRVLForConditionalGeneration"], "vision_config": {}}


def test_a_model_that_sees() -> None:
    config = ModelConfig.from_json(VL)
    vision = config.vision
    assert vision is not None
    assert (vision.hidden_size, vision.intermediate_size, vision.head_dim, vision.activation) == (1280, 5120, 80, "quick_gelu")
    assert (config.num_experts, config.moe_intermediate_size, config.vision_moe_intermediate_size) == (64, 1536, 512)
    assert config.sparse_layers == tuple(range(1, 18))
    assert config.rope_axes == (1, 2) * 22 + (0,) * 20
    assert config.media_delimiter_ids == (101304, 101305, 101306, 101307) and config.image_token_id == 100295
    assert ModelConfig.from_json({**VL, "architectures": None, "model_type": "ernie4_5_moe_vl"}) == config


def test_a_model_that_reads_pages() -> None:
    config = ModelConfig.from_json(OCR)
    vision = config.vision
    assert vision is not None and (vision.head_dim, vision.position_grid, vision.activation) == (72, 27, "gelu_pytorch_tanh")
    assert config.rope_axes == (0,) * 16 + (1,) * 24 + (2,) * 24 and config.media_delimiter_ids == ()


def test_what_the_text_config_says_counts_where_the_top_says_nothing() -> None:
    text = {**MOE, "moe_intermediate_size": [1536, 512], "tie_word_embeddings": True, "eos_token_id": 7}
    top = {"architectures": VL["architectures"], "tie_word_embeddings": False, "eos_token_id": None, "vision_config": {}}
    config = ModelConfig.from_json({**top, "text_config": text})
    assert (config.hidden_size, config.tie_word_embeddings, config.eos_token_ids) == (1024, False, (7,))


def test_pixel_statistics_come_from_the_preprocessor(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(OCR))
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.5, 1]}')
    vision = ModelConfig.from_folder(tmp_path).vision
    assert vision is not None and (vision.image_mean, vision.image_std) == ((0.5, 0.5, 0.5), (0.25, 0.5, 1.0))
    (tmp_path / "processor_config.json").write_text('{"image_processor": {"image_mean": [0.1, 0.2, 0.3]}}')
    vision = ModelConfig.from_folder(tmp_path).vision
    assert vision is not None and vision.image_mean == (0.1, 0.2, 0.3)
    (tmp_path / "processor_config.json").write_text('{"image_processor": {"image_std": [0, 0, 0]}}')
    with pytest.raises(CheckpointError, match=r"processor_config.json: image_std is \[0, 0, 0\]"):
        ModelConfig.from_folder(tmp_path)


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({**VL, "moe_num_experts": [64, 32]}, "moe_num_experts"),
        ({**VL, "moe_intermediate_size": 1536}, "moe_intermediate_size"),
        ({**VL, "rope_3d": False}, "rope_3d"),
        ({**VL, "freq_allocation": 64}, "freq_allocation"),
        ({**VL, "freq_allocation": 21}, "freq_allocation"),
        ({**VL, "rope_scaling": {"mrope_section": [22, 22, 21]}}, "mrope_section"),
        ({**VL, "rope_scaling": {"mrope_section": [24, 20, 20]}}, "mrope_section"),
        ({**VL, "spatial_conv_size": 3}, "spatial_conv_size"),
        ({**VL, "vision_config": {"hidden_act": "gelu"}}, "hidden_act"),
        ({**VL, "vision_config": {"embed_dim": 1284}}, "hidden_size"),
        ({**VL, "vision_config": "big"}, "vision_config"),
        ({**VL, "im_patch_id": "<|IMAGE_PLACEHOLDER|>"}, "im_patch_id"),
        ({**VL, "mlp_layer_types": ["dense", "sparse"]}, "mlp_layer_types"),
        ({**OCR, "rope_is_neox_style": False}, "rope_is_neox_style"),
        ({**OCR, "vision_config": {"spatial_merge_size": 4}}, "spatial_merge_size"),
    ],
)
def test_refused_config_json_of_models_that_see(given: dict[str, object], param: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        ModelConfig.from_json(given)
    assert caught.value.param == param


def test_media_settings_as_strings_of_a_pbtxt() -> None:
    given = {
        "model": "m",
        "limit_mm_per_prompt": '{"image": 3}',
        "mm_processor_kwargs": '{"video_fps": 1}',
        "allowed_media_domains": "a.com, .b.org,",
        "allow_private_media": "true",
    }
    config = EngineConfig.from_mapping(given)
    assert (config.limit_mm_per_prompt, config.mm_processor_kwargs) == ({"image": 3}, {"video_fps": 1})
    assert (config.allowed_media_domains, config.allow_private_media) == (["a.com", ".b.org"], True)
    assert EngineConfig.from_mapping(json.loads(config.to_json())) == config
    for name, value, words in (
        ("limit_mm_per_prompt", "{", "must be a JSON object"),
        ("limit_mm_per_prompt", '{"image": -1}', "from 0 to 10000"),
        ("mm_processor_kwargs", "[]", "must be an object, got a list"),
        ("mm_processor_kwargs", '{"image_max_pixels": "many"}', "image_max_pixels must be an integer"),
        ("allowed_media_domains", "http://a.com", "names of hosts"),
        ("allowed_local_media_path", "/nowhere", "must be a folder"),
    ):
        with pytest.raises(ConfigError, match=words):
            EngineConfig.from_mapping({"model": "m", name: value})
