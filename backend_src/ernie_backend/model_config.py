"""`ModelConfig`: what a model folder's config.json says, every field, default and check; knows no tensors and no names of tensors.

Frozen and read once. A wrong value raises `CheckpointError` naming field, value and rule. Models that see are described flat (as published)
or nested in `text_config` and `vision_config` (as transformers writes them); both are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .errors import CheckpointError, json_kind
from .json_reader import JsonReader, read_json
from .model_folder import model_folders_below

_MOST_SHOWN = 4
"""Of folders that a user may have meant."""

DENSE_ARCHITECTURES = ("Ernie4_5ForCausalLM", "Ernie4_5_ForCausalLM")  # the second is FastDeploy's name for the -Paddle flavour
MOE_ARCHITECTURES = ("Ernie4_5_MoeForCausalLM", "Ernie4_5_MoEForCausalLM")
VL_ARCHITECTURES = ("Ernie4_5_VLMoeForConditionalGeneration",)
OCR_ARCHITECTURES = ("PaddleOCRVLForConditionalGeneration",)
_ARCHITECTURES = {
    **dict.fromkeys(DENSE_ARCHITECTURES, "dense"),
    **dict.fromkeys(MOE_ARCHITECTURES, "moe"),
    **dict.fromkeys(VL_ARCHITECTURES, "vl"),
    **dict.fromkeys(OCR_ARCHITECTURES, "ocr"),
}
_MODEL_TYPES = {"ernie4_5": "dense", "ernie4_5_moe": "moe", "ernie4_5_moe_vl": "vl", "ernie4_5_vl_moe": "vl", "paddleocr_vl": "ocr"}

_KEYS_WITHOUT_EFFECT = """
    architectures model_type auto_map torch_dtype dtype transformers_version _name_or_path use_cache initializer_range pad_token_id
    bos_token_id eos_token_id cls_token_id sep_token_id attention_dropout attention_probs_dropout_prob hidden_dropout_prob
    moe_multimodal_dispatch_use_allgather moe_use_hard_gate moe_fuse_experts moe_use_token_type_bias moe_dense_experts_token_type_id
    moe_group_experts moe_gate moe_capacity router_aux_loss_coef router_z_loss_coef moe_orthogonal_loss_lambda moe_norm_gate_logits
    moe_all_to_all_dropout moe_aux_loss_lambda moe_z_loss_lambda fuse_rms_norm fuse_linear fuse_rope fuse_swiglu fuse_ln
    fuse_attn_qkv fuse_attn_ffn fuse_softmax_mask fuse_gate_detach_matmul use_flash_attention use_sparse_flash_attn use_recompute
    use_rmsnorm use_fused_head_and_loss_fn weight_share_add_bias ignored_index modality_detach max_text_id
    use_temporal_conv token_balance_seqlen token_balance_loss output_router_logits output_attentions output_hidden_states
    return_dict is_encoder_decoder tensor_parallel_degree sequence_parallel num_nextn_predict_layers chunk_size_feed_forward
    problem_type id2label label2id use_moe text_config vision_config mm_vocab_size resampler_fuse_rms_norm pixel_hidden_size
    video_token_id sliding_window
"""
"""Keys of published and saved configurations that change nothing at inference."""
_VISION_KEYS_WITHOUT_EFFECT = """
    model_type architectures dtype torch_dtype transformers_version _name_or_path initializer_range attn_implementation attn_sep
    vit_num_recompute_layers hidden_size attention_dropout tokens_per_second temporal_patch_size output_attentions output_hidden_states
    return_dict chunk_size_feed_forward is_encoder_decoder problem_type id2label label2id
"""

MERGE_SIZE = 2
"""Patches per side of the square that becomes one token, and frames of a video that become one."""
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class VisionConfig:
    """The vision tower of a model that sees."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    patch_size: int
    num_channels: int
    activation: str
    """Of its MLPs: `quick_gelu` or `gelu_pytorch_tanh`."""
    norm_eps: float
    rope_theta: float
    position_grid: int = 0
    """Side of the learned table of positions; 0: there is none."""
    image_mean: tuple[float, ...] = CLIP_MEAN
    image_std: tuple[float, ...] = CLIP_STD

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def patch_width(self) -> int:
        """Pixel values of a patch."""
        return self.num_channels * self.patch_size**2


@dataclass(frozen=True)
class ModelConfig:
    """An ERNIE-4.5 model, as its config.json describes it. Names follow config.json where the glossary has none."""

    architecture: str
    """`dense`, `moe`, `vl` (mixture of experts that sees) or `ocr` (dense, sees)."""
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    tie_word_embeddings: bool
    eos_token_ids: tuple[int, ...]
    num_experts: int = 0
    """Of one modality."""
    experts_per_token: int = 0
    moe_intermediate_size: int = 0
    num_shared_experts: int = 0
    sparse_layers: tuple[int, ...] = ()
    moe_norm_min: float = 1e-12
    has_correction_bias: bool = True
    vision: VisionConfig | None = None
    vision_moe_intermediate_size: int = 0
    """Of the experts for tokens of images and videos, as many as for text; 0: all tokens share one set of experts."""
    rope_axes: tuple[int, ...] = ()
    """For each rotary frequency the position that turns it: 0 frame, 1 row, 2 column. Empty: there is but one position."""
    image_token_id: int = -1
    """The placeholder that images and videos stand for in a prompt."""
    media_delimiter_ids: tuple[int, ...] = ()
    """Start and end of an image, start and end of a video; empty where the model does not treat them as part of the media."""

    def is_sparse(self, layer: int) -> bool:
        """Whether the layer's MLP is a mixture of experts."""
        return layer in self.sparse_layers

    @property
    def kv_elements_per_token(self) -> int:
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> ModelConfig:
        """Strict: a known key with an unsupported value is a `CheckpointError`; unknown keys are listed in the log once."""
        return _ModelReader(dict(given)).read()

    @classmethod
    def from_folder(cls, folder: str | Path) -> ModelConfig:
        """config.json and, where the model sees, mean and deviation of pixels from preprocessor_config.json (transformers 5:
        processor_config.json)."""
        folder = Path(folder)
        if not folder.is_dir():
            raise CheckpointError(f"The model folder {str(folder)!r} does not exist.", param="model")
        if not (folder / "config.json").exists():
            below = [str(found) for found in model_folders_below(folder)]
            hint = f" Is the model in one of these? {', '.join(below[:_MOST_SHOWN])}" if below else ""
            raise CheckpointError(f"The model folder {str(folder)!r} has no config.json.{hint}", param="model")
        config = cls.from_json(read_json(folder / "config.json"))
        if config.vision is not None:
            for name in ("processor_config.json", "preprocessor_config.json"):
                given = read_json(folder / name) if (folder / name).is_file() else {}
                given = given.get("image_processor") or {} if name == "processor_config.json" else given
                if not isinstance(given, dict):
                    raise CheckpointError(f"{name}: image_processor must be an object, got {json_kind(given)}.", param="model")
                if given:
                    return replace(config, vision=_with_pixel_statistics(config.vision, name, given))
        return config


def _with_pixel_statistics(vision: VisionConfig, file: str, given: dict[str, Any]) -> VisionConfig:
    reader = JsonReader(file, given)
    return replace(
        vision,
        image_mean=reader.numbers("image_mean", vision.image_mean, low=0.0),
        image_std=reader.numbers("image_std", vision.image_std, low=1e-6),
    )


class _ModelReader(JsonReader):
    """Reads a config.json."""

    def __init__(self, given: dict[str, Any]) -> None:
        super().__init__("config.json", given)
        text = given.get("text_config")
        if not isinstance(text, dict | None):
            raise self.error("text_config", text, "an object")
        if text:  # its keys count where the top level has none
            self.given = {**text, **{key: value for key, value in given.items() if value is not None}}

    def read(self) -> ModelConfig:
        architecture = self._architecture()
        for key, allowed in (("use_bias", False), ("hidden_act", "silu"), ("scoring_func", "softmax"), ("rope_3d", architecture == "vl")):
            self.must_be(key, allowed)
        self.must_be("compression_ratio", 1.0)  # of positions
        self.must_be("rope_is_neox_style", architecture == "ocr")
        if self.take("quantization_config", None):
            raise CheckpointError(
                "config.json: quantised checkpoints are not supported yet. Use the bfloat16 checkpoint.", param="quantization_config"
            )
        hidden, heads = self.integer("hidden_size"), self.integer("num_attention_heads")
        layers = self.integer("num_hidden_layers")
        vocab_size = self.integer("vocab_size", 103424)
        rope = self.rope_parameters("default")
        values: dict[str, Any] = {
            "architecture": architecture,
            "vocab_size": vocab_size,
            "hidden_size": hidden,
            "intermediate_size": self.integer("intermediate_size"),
            "num_layers": layers,
            "num_heads": heads,
            "num_kv_heads": self.integer("num_key_value_heads", heads),
            "head_dim": self.integer("head_dim", hidden // heads),
            "max_position_embeddings": self.integer("max_position_embeddings", 131072),
            "rms_norm_eps": self.number("rms_norm_eps", 1e-5),
            "rope_theta": self.number("rope_theta", rope.get("rope_theta") or 500000.0),
            "tie_word_embeddings": self.boolean("tie_word_embeddings", True),
            "eos_token_ids": self._eos(vocab_size),
        }
        if architecture in ("moe", "vl"):
            values |= self._moe(layers, modalities=2 if architecture == "vl" else 1)
        if architecture in ("vl", "ocr"):
            values |= self._vision(architecture, values["head_dim"] // 2, rope)
        config = ModelConfig(**values)
        if config.num_heads % config.num_kv_heads:
            raise self.error("num_key_value_heads", config.num_kv_heads, f"a divisor of num_attention_heads ({heads})")
        if config.head_dim % 2:
            raise self.error("head_dim", config.head_dim, "even (rotary pairs)")
        self.log_unknown(_KEYS_WITHOUT_EFFECT)
        return config

    def _architecture(self) -> str:
        names = self.given.get("architectures") or []
        model_type = self.given.get("model_type")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise self.error("architectures", names, "a list of names")
        for name in names:
            if name in _ARCHITECTURES:
                return _ARCHITECTURES[name]
        if not names and model_type in _MODEL_TYPES:
            return _MODEL_TYPES[model_type]
        found = names[0] if names else model_type
        raise CheckpointError(
            f"config.json: architecture {found!r} is not supported. Supported: {', '.join(_ARCHITECTURES)}.", param="architectures"
        )

    def _moe(self, layers: int, modalities: int) -> dict[str, Any]:
        """One value per modality where the model has two, text first."""
        shared = self.integer("moe_num_shared_experts", 2, low=0)
        if "moe_num_shared_experts" in self.given and self.given["moe_num_shared_experts"] is None:
            shared = 0  # the 424B configuration writes null for none
        experts = self.integers("moe_num_experts", [64])
        if len(set(experts)) > 1:
            raise self.error("moe_num_experts", experts, "as many experts for text as for images")
        chosen = self.integer("moe_k", 6)
        if chosen > experts[0]:
            raise self.error("moe_k", chosen, f"at most moe_num_experts ({experts[0]})")
        widths = self.integers("moe_intermediate_size", [1536, 512][:modalities])
        if len(widths) != modalities:
            raise self.error("moe_intermediate_size", widths, f"a list of {modalities}" if modalities > 1 else "an integer")
        return {
            "num_experts": experts[0],
            "experts_per_token": chosen,
            "moe_intermediate_size": widths[0],
            "vision_moe_intermediate_size": widths[1] if modalities > 1 else 0,
            "num_shared_experts": shared,
            "sparse_layers": self._sparse_layers(layers),
            "moe_norm_min": self.number("moe_norm_min", 1e-12),
            "has_correction_bias": self.boolean("moe_use_aux_free", True),
        }

    def _sparse_layers(self, layers: int) -> tuple[int, ...]:
        """From `mlp_layer_types`, or from first and last (−1: the model's) index and interval; indices may lie past the last layer."""
        kinds = self.take("mlp_layer_types", None)
        if kinds is not None:
            if not isinstance(kinds, list) or len(kinds) != layers or not set(kinds) <= {"dense", "sparse"}:
                raise self.error("mlp_layer_types", kinds, f"a list of {layers} times 'dense' or 'sparse'")
            return tuple(i for i, kind in enumerate(kinds) if kind == "sparse")
        first = min(self.integers("moe_layer_start_index", [1], low=0))
        last = max(layers - 1 if end < 0 else end for end in self.integers("moe_layer_end_index", [-1], low=-1))
        interval = self.integer("moe_layer_interval", 1)
        return tuple(i for i in range(layers) if first <= i <= last and (i + 1) % interval == 0)

    def _vision(self, architecture: str, half: int, rope: dict[str, Any]) -> dict[str, Any]:
        given = self.take("vision_config", {})
        if not isinstance(given, dict):
            raise self.error("vision_config", given, "an object")
        reader = _VisionReader("config.json: vision_config", given)
        self.must_be("spatial_conv_size", MERGE_SIZE)
        self.must_be("temporal_conv_size", MERGE_SIZE)
        image_token = self.integer("im_patch_id", self.integer("image_token_id", 100295, low=0), low=0)
        names = ("image_start_token_id", "image_end_token_id", "video_start_token_id", "video_end_token_id")
        if architecture == "vl":
            delimiters = tuple(self.integer(name, default) for name, default in zip(names, range(101304, 101308), strict=True))
            return {
                "vision": reader.read_vl(),
                "rope_axes": self._vl_axes(half, rope),
                "image_token_id": image_token,
                "media_delimiter_ids": delimiters,
            }
        self.take("vision_start_token_id", None)
        self.take("vision_end_token_id", None)
        return {"vision": reader.read_ocr(), "rope_axes": self._ocr_axes(half, rope), "image_token_id": image_token}

    def _vl_axes(self, half: int, rope: dict[str, Any]) -> tuple[int, ...]:
        """Row, column, row, column …, and at the end `freq_allocation` frequencies for the frame."""
        frames = self.integer("freq_allocation", 20)
        if "mrope_section" not in rope and (frames >= half or (half - frames) % 2):
            raise self.error("freq_allocation", frames, f"less than half of head_dim ({half}), by an even number")
        sections = rope.get("mrope_section") or [(half - frames) // 2, (half - frames) // 2, frames]
        rows, columns, frames = self._sections(sections, half)
        if rows != columns:
            raise self.error("mrope_section", sections, "as many frequencies for rows as for columns")
        return (1, 2) * rows + (0,) * frames

    def _ocr_axes(self, half: int, rope: dict[str, Any]) -> tuple[int, ...]:
        frames, rows, columns = self._sections(rope.get("mrope_section") or [16, 24, 24], half)
        return (0,) * frames + (1,) * rows + (2,) * columns

    def _sections(self, sections: Any, half: int) -> tuple[int, int, int]:
        good = isinstance(sections, list) and len(sections) == 3 and all(isinstance(s, int) and s >= 0 for s in sections)
        if not good or sum(sections) != half:
            raise self.error("mrope_section", sections, f"three integers whose sum is half of head_dim ({half})")
        return sections[0], sections[1], sections[2]

    def _eos(self, vocab_size: int) -> tuple[int, ...]:
        value = self.given.get("eos_token_id", 2)
        ids = value if isinstance(value, list) else [2 if value is None else value]
        if not all(isinstance(i, int) and not isinstance(i, bool) and 0 <= i < vocab_size for i in ids):
            raise self.error("eos_token_id", value, f"an id below vocab_size ({vocab_size}), or a list of them")
        return tuple(ids)


class _VisionReader(JsonReader):
    """Reads the vision_config of a config.json."""

    def read_vl(self) -> VisionConfig:
        hidden = self.integer("embed_dim", self.take("hidden_size", 1280))
        ratio = self.number("mlp_ratio", 4)
        self.must_be("temporal_merge_size", MERGE_SIZE)
        return self._read(
            {
                "hidden_size": hidden,
                "intermediate_size": self.integer("intermediate_size", int(hidden * ratio)),
                "num_layers": self.integer("depth", 32),
                "num_heads": self.integer("num_heads", 16),
                "num_channels": self.integer("in_channels", 3),
                "norm_eps": self.number("rms_norm_eps", 1e-6),
            },
            "quick_gelu",
        )

    def read_ocr(self) -> VisionConfig:
        return self._read(
            {
                "hidden_size": self.integer("hidden_size", 1152),
                "intermediate_size": self.integer("intermediate_size", 4304),
                "num_layers": self.integer("num_hidden_layers", 27),
                "num_heads": self.integer("num_attention_heads", 16),
                "num_channels": self.integer("num_channels", 3),
                "norm_eps": self.number("layer_norm_eps", 1e-6),
                "position_grid": self.integer("image_size", 384) // self.integer("patch_size", 14),
            },
            "gelu_pytorch_tanh",
        )

    def _read(self, values: dict[str, Any], activation: str) -> VisionConfig:
        self.must_be("hidden_act", activation)
        self.must_be("spatial_merge_size", MERGE_SIZE)
        rope = self.rope_parameters("axial")
        config = VisionConfig(
            **values,
            patch_size=self.integer("patch_size", 14),
            activation=activation,
            rope_theta=self.number("rope_theta", rope.get("rope_theta") or 10000.0),
        )
        if config.num_channels != 3:
            raise self.error("in_channels", config.num_channels, "3")
        if config.hidden_size % (4 * config.num_heads):
            rule = f"a multiple of 4 · num_heads ({config.num_heads}): each head turns by row and by column"
            raise self.error("hidden_size", config.hidden_size, rule)
        self.log_unknown(_VISION_KEYS_WITHOUT_EFFECT)
        return config
