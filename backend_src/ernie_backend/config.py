"""`EngineConfig` (how to serve) and `ModelConfig` (what a config.json says): every field, default and check; knows no tensors.

Both are frozen and read once. A wrong value raises `ConfigError` or `CheckpointError` naming field, value and rule.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from .errors import CheckpointError, ConfigError

log = logging.getLogger(__name__)

DEFAULT_MAX_MODEL_LEN = 4096
"""FastDeploy's 2048 would refuse its own tutorial: a prompt and `max_tokens=2048`."""
PARSERS = ("ernie-45-vl", "ernie-45-vl-thinking", "ernie-x1")
"""Of an answer's thought and, but for the first, of its tool calls. FastDeploy's documents write them with `-` and with `_`."""
NO_PARSER = "none"


LOAD_FORMATS = ("auto", "dummy")


@dataclass(frozen=True)
class EngineConfig:
    """Everything that decides how a model is served. `None` means 'choose'; `resolved` fills those in from the model."""

    model: str
    """The model folder."""
    load_format: str = "auto"
    """`auto`: the weights of the model folder; `dummy`: random ones, made on the device (config.json and tokenizer suffice)."""
    max_model_len: int | None = None
    """Most tokens of prompt and answer together. None: 4096, or the model's context if that is shorter."""
    max_num_seqs: int = 8
    """Most sequences in one step."""
    max_num_batched_tokens: int | None = None
    """Most tokens in one step. None: 2048 with chunked prefill, else max_model_len."""
    block_size_tokens: int = 64
    num_blocks: int | None = None
    """KV-cache blocks. None: as many as fit into `gpu_memory_utilization` (GPU) or into what max_num_seqs full sequences need (CPU)."""
    gpu_memory_utilization: float = 0.9
    enable_prefix_caching: bool = True
    enable_chunked_prefill: bool = True
    delivery_window_responses: int = 8
    """Most responses of one request that postprocess has not yet consumed; further tokens wait and leave together."""
    max_concurrency: int = 4096
    """Most sequences at once, running and waiting; what comes on top is answered with 429."""
    deterministic: bool = False
    """The order of every sum is the same however many tokens share a step, so that an answer does not depend on its neighbours to the bit.
    A CPU always computes like that; on a GPU it costs speed."""
    seed: int = 0
    """Seeds requests that give none."""
    chat_template: str | None = None
    """A jinja file, or the template itself; None: the checkpoint's own."""
    generation_config: str = "auto"
    """`auto`: sampling defaults from the model folder's generation_config.json; `vllm`: none; else a folder to read it from."""
    reasoning_parser: str | None = None
    """One of `PARSERS`, or `none`. None: by the chat template."""
    tool_call_parser: str | None = None
    """One of `PARSERS` that knows calls, or `none`. None: by the chat template."""
    cpu_threads: int | None = None
    """Threads of the CPU engine. None: all cores."""
    runtime_dir: str | None = None
    """A private folder for the relay's socket, so that `serve` can ask the engine to drain. None: a temporary one."""

    def __post_init__(self) -> None:
        _check_integer(self, "max_model_len", 1, 2**24, optional=True)
        _check_integer(self, "max_num_seqs", 1, 4096)
        _check_integer(self, "max_num_batched_tokens", 1, 2**24, optional=True)
        _check_integer(self, "block_size_tokens", 1, 1024)
        _check_integer(self, "num_blocks", 1, 2**31 - 1, optional=True)
        _check_integer(self, "delivery_window_responses", 1, 1024)
        _check_integer(self, "max_concurrency", 1, 2**20)
        _check_integer(self, "seed", 0, 2**63 - 1)
        _check_integer(self, "cpu_threads", 1, 1024, optional=True)
        if not isinstance(self.gpu_memory_utilization, (int, float)) or not 0 < self.gpu_memory_utilization <= 1:
            raise ConfigError(
                f"gpu_memory_utilization must be above 0 and at most 1, got {self.gpu_memory_utilization!r}.",
                param="gpu_memory_utilization",
            )
        _check_parser(self, "reasoning_parser", (*PARSERS, NO_PARSER))
        _check_parser(self, "tool_call_parser", (*PARSERS[1:], NO_PARSER))
        if self.block_size_tokens & (self.block_size_tokens - 1):
            raise ConfigError(f"block_size_tokens must be a power of two, got {self.block_size_tokens}.", param="block_size_tokens")
        if self.load_format not in LOAD_FORMATS:
            raise ConfigError(f"load_format must be one of {', '.join(LOAD_FORMATS)}, got {self.load_format!r}.", param="load_format")
        if not self.model:
            raise ConfigError("model must name a model folder.", param="model")

    @classmethod
    def from_mapping(cls, given: Mapping[str, Any]) -> EngineConfig:
        """From JSON values or from strings (the `parameters` of config.pbtxt); an empty string counts as not given."""
        known = {f.name: f.type for f in fields(cls)}
        values: dict[str, Any] = {}
        for name, value in given.items():
            if name not in known:
                raise ConfigError(f"Unknown engine setting {name!r}. Known: {', '.join(known)}.", param=name)
            if isinstance(value, str):
                value = _from_string(name, value, str(known[name]))
            if value is not None:
                values[name] = value
        if "model" not in values:
            raise ConfigError(
                "No model is configured. Set `model` in the parameters of ernie_engine, or in the JSON file that ERNIE_CONFIG names.",
                param="model",
            )
        return cls(**values)

    @classmethod
    def from_json_file(cls, path: str | Path) -> EngineConfig:
        try:
            given = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"Cannot read the engine configuration {str(path)!r}: {error}.") from None
        if not isinstance(given, dict):
            raise ConfigError(f"The engine configuration {str(path)!r} must be a JSON object.")
        return cls.from_mapping(given)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2)

    def resolved(self, model: ModelConfig) -> EngineConfig:
        """This configuration with every `None` but `num_blocks` decided (the cache is sized by build.py, which knows the memory)."""
        limit = model.max_position_embeddings
        max_model_len = self.max_model_len if self.max_model_len is not None else min(DEFAULT_MAX_MODEL_LEN, limit)
        if max_model_len > limit:
            raise ConfigError(f"max_model_len ({max_model_len}) exceeds the model's context of {limit} tokens.", param="max_model_len")
        batched = self.max_num_batched_tokens
        if batched is None:
            batched = max(2048, self.max_num_seqs) if self.enable_chunked_prefill else max(max_model_len, self.max_num_seqs)
        if batched < self.max_num_seqs:
            raise ConfigError(
                f"max_num_batched_tokens ({batched}) must be at least max_num_seqs ({self.max_num_seqs}).", param="max_num_batched_tokens"
            )
        if not self.enable_chunked_prefill and batched < max_model_len:
            raise ConfigError(
                f"Without chunked prefill, max_num_batched_tokens ({batched}) must be at least max_model_len ({max_model_len}).",
                param="max_num_batched_tokens",
            )
        values = {**asdict(self), "max_model_len": max_model_len, "max_num_batched_tokens": batched}
        return EngineConfig(**values)

    @property
    def blocks_per_sequence(self) -> int:
        """Blocks that one sequence of max_model_len tokens takes."""
        assert self.max_model_len is not None, "call resolved() first"
        return -(-self.max_model_len // self.block_size_tokens)


def _check_integer(config: EngineConfig, name: str, low: int, high: int, *, optional: bool = False) -> None:
    value = getattr(config, name)
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ConfigError(f"{name} must be an integer from {low} to {high}, got {value!r}.", param=name)


def _check_parser(config: EngineConfig, name: str, known: tuple[str, ...]) -> None:
    value = getattr(config, name)
    if value is not None and (not isinstance(value, str) or parser_name(value) not in known):
        raise ConfigError(f"{name} must be one of {', '.join(known)}, got {value!r}.", param=name)


def parser_name(given: str) -> str:
    """As `PARSERS` spells it."""
    return given.replace("_", "-")


def _from_string(name: str, value: str, kind: str) -> Any:
    text = value.strip()
    if not text:
        return None
    try:
        if "int" in kind:
            return int(text)
        if "float" in kind:
            return float(text)
    except ValueError:
        raise ConfigError(f"{name} must be a number, got {text!r}.", param=name) from None
    if kind == "bool":
        if text.lower() not in ("true", "false", "1", "0"):
            raise ConfigError(f"{name} must be true or false, got {text!r}.", param=name)
        return text.lower() in ("true", "1")
    return value


# config.json ---------------------------------------------------------------------------------------------------------------------

DENSE_ARCHITECTURES = ("Ernie4_5ForCausalLM", "Ernie4_5_ForCausalLM")  # the second is FastDeploy's name for the -Paddle flavour
MOE_ARCHITECTURES = ("Ernie4_5_MoeForCausalLM", "Ernie4_5_MoEForCausalLM")

_KEYS_WITHOUT_EFFECT = """
    architectures model_type auto_map torch_dtype dtype transformers_version _name_or_path use_cache initializer_range pad_token_id
    bos_token_id eos_token_id cls_token_id sep_token_id attention_dropout attention_probs_dropout_prob hidden_dropout_prob
    moe_multimodal_dispatch_use_allgather moe_use_hard_gate moe_fuse_experts moe_use_token_type_bias moe_dense_experts_token_type_id
    moe_group_experts moe_gate moe_capacity router_aux_loss_coef router_z_loss_coef moe_orthogonal_loss_lambda moe_norm_gate_logits
    moe_all_to_all_dropout moe_aux_loss_lambda moe_z_loss_lambda fuse_rms_norm fuse_linear fuse_rope fuse_swiglu fuse_ln
    fuse_attn_qkv fuse_attn_ffn fuse_softmax_mask fuse_gate_detach_matmul use_flash_attention use_sparse_flash_attn use_recompute
    use_rmsnorm use_fused_head_and_loss_fn compression_ratio weight_share_add_bias ignored_index modality_detach max_text_id
    use_temporal_conv token_balance_seqlen token_balance_loss output_router_logits output_attentions output_hidden_states
    return_dict is_encoder_decoder tensor_parallel_degree sequence_parallel num_nextn_predict_layers chunk_size_feed_forward
    problem_type id2label label2id use_moe
"""
"""Keys of published and saved configurations that change nothing at inference."""


@dataclass(frozen=True)
class ModelConfig:
    """An ERNIE-4.5 text model, as its config.json describes it. Names follow config.json where the glossary has none."""

    architecture: str
    """`dense` or `moe`."""
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
    experts_per_token: int = 0
    moe_intermediate_size: int = 0
    num_shared_experts: int = 0
    moe_layer_start: int = 0
    moe_layer_end: int = -1
    """Last sparse layer, inclusive and already clipped to the model; −1 for a dense model."""
    moe_layer_interval: int = 1
    moe_norm_min: float = 1e-12
    has_correction_bias: bool = True

    def is_sparse(self, layer: int) -> bool:
        """Whether the layer's MLP is a mixture of experts."""
        return self.num_experts > 0 and self.moe_layer_start <= layer <= self.moe_layer_end and (layer + 1) % self.moe_layer_interval == 0

    @property
    def kv_elements_per_token(self) -> int:
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> ModelConfig:
        """Strict: a known key with an unsupported value is a `CheckpointError`; unknown keys are listed in the log once."""
        return _ConfigReader(dict(given)).read()

    @classmethod
    def from_folder(cls, folder: str | Path) -> ModelConfig:
        path = Path(folder) / "config.json"
        if not Path(folder).is_dir():
            raise CheckpointError(f"The model folder {str(folder)!r} does not exist.", param="model")
        try:
            given = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise CheckpointError(f"The model folder {str(folder)!r} has no config.json.", param="model") from None
        except ValueError as error:
            raise CheckpointError(f"{str(path)!r} is not valid JSON: {error}.", param="model") from None
        if not isinstance(given, dict):
            raise CheckpointError(f"{str(path)!r} must hold a JSON object.", param="model")
        return cls.from_json(given)


class _ConfigReader:
    """Takes keys out of a config.json one by one, so that what is left at the end is what we do not know."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.given = given
        self.seen: set[str] = set()

    def read(self) -> ModelConfig:
        architecture = self._architecture()
        self._refuse_unsupported()
        hidden, heads = self._integer("hidden_size"), self._integer("num_attention_heads")
        layers = self._integer("num_hidden_layers")
        values: dict[str, Any] = {
            "architecture": architecture,
            "vocab_size": self._integer("vocab_size", 103424),
            "hidden_size": hidden,
            "intermediate_size": self._integer("intermediate_size"),
            "num_layers": layers,
            "num_heads": heads,
            "num_kv_heads": self._integer("num_key_value_heads", heads),
            "head_dim": self._integer("head_dim", hidden // heads),
            "max_position_embeddings": self._integer("max_position_embeddings", 131072),
            "rms_norm_eps": self._number("rms_norm_eps", 1e-5),
            "rope_theta": self._rope_theta(),
            "tie_word_embeddings": bool(self._take("tie_word_embeddings", True)),
            "eos_token_ids": self._eos(),
        }
        if architecture == "moe":
            values |= self._moe(layers)
        config = ModelConfig(**values)
        if config.num_heads % config.num_kv_heads:
            raise self._error("num_key_value_heads", config.num_kv_heads, f"a divisor of num_attention_heads ({heads})")
        if config.head_dim % 2:
            raise self._error("head_dim", config.head_dim, "even (rotary pairs)")
        unknown = sorted(set(self.given) - self.seen - set(_KEYS_WITHOUT_EFFECT.split()))
        if unknown:
            log.info("config.json: keys without a meaning here: %s", ", ".join(unknown))
        return config

    def _architecture(self) -> str:
        names = self.given.get("architectures") or []
        model_type = self.given.get("model_type")
        for name in names:
            if name in DENSE_ARCHITECTURES:
                return "dense"
            if name in MOE_ARCHITECTURES:
                return "moe"
        if not names and model_type in ("ernie4_5", "ernie4_5_moe"):
            return "moe" if model_type == "ernie4_5_moe" else "dense"
        found = names[0] if names else model_type
        raise CheckpointError(
            f"config.json: architecture {found!r} is not supported. Supported: {', '.join((*DENSE_ARCHITECTURES, *MOE_ARCHITECTURES))}.",
            param="architectures",
        )

    def _refuse_unsupported(self) -> None:
        """Keys that would change the maths (`facts`: none was ever seen with another value)."""
        for key, allowed in (("use_bias", False), ("hidden_act", "silu"), ("scoring_func", "softmax"), ("rope_3d", False)):
            value = self._take(key, allowed)
            if value != allowed:
                raise self._error(key, value, repr(allowed))
        for key in ("rope_scaling", "rope_parameters"):
            scaling = self._take(key, {})
            kind = scaling.get("rope_type", scaling.get("type", "default")) if isinstance(scaling, dict) else scaling
            if kind != "default":
                raise self._error(key, kind, "'default'")
        if self._take("quantization_config", None):
            raise CheckpointError("config.json: quantised checkpoints are not supported yet.", param="quantization_config")

    def _rope_theta(self) -> float:
        parameters = self.given.get("rope_parameters")
        nested = parameters.get("rope_theta") if isinstance(parameters, dict) else None
        return self._number("rope_theta", 500000.0 if nested is None else nested)

    def _moe(self, layers: int) -> dict[str, Any]:
        if "mlp_layer_types" in self.given:
            raise self._error("mlp_layer_types", "a list", "absent in a text model (moe_layer_start_index and moe_layer_end_index say it)")
        end = self._integer("moe_layer_end_index", -1, low=-1)
        shared = self._integer("moe_num_shared_experts", 2, low=0)
        if "moe_num_shared_experts" in self.given and self.given["moe_num_shared_experts"] is None:
            shared = 0  # the 424B configuration writes null for none
        return {
            "num_experts": self._integer("moe_num_experts", 64),
            "experts_per_token": self._integer("moe_k", 6),
            "moe_intermediate_size": self._integer("moe_intermediate_size", 1536),
            "num_shared_experts": shared,
            "moe_layer_start": self._integer("moe_layer_start_index", 1, low=0),
            "moe_layer_end": min(end, layers - 1) if end >= 0 else layers - 1,
            "moe_layer_interval": self._integer("moe_layer_interval", 1),
            "moe_norm_min": self._number("moe_norm_min", 1e-12),
            "has_correction_bias": bool(self._take("moe_use_aux_free", True)),
        }

    def _eos(self) -> tuple[int, ...]:
        value = self.given.get("eos_token_id", 2)
        ids = value if isinstance(value, list) else [2 if value is None else value]
        if not all(isinstance(i, int) for i in ids):
            raise self._error("eos_token_id", value, "an integer or a list of integers")
        return tuple(ids)

    def _take(self, key: str, default: Any) -> Any:
        self.seen.add(key)
        value = self.given.get(key, default)
        return default if value is None else value

    def _integer(self, key: str, default: int | None = None, low: int = 1) -> int:
        value = self._take(key, default)
        if value is None:
            raise CheckpointError(f"config.json: {key} is missing.", param=key)
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise self._error(key, value, f"an integer ≥ {low}")
        return value

    def _number(self, key: str, default: float) -> float:
        value = self._take(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
            raise self._error(key, value, "a number above 0")
        return float(value)

    @staticmethod
    def _error(key: str, value: Any, rule: str) -> CheckpointError:
        return CheckpointError(f"config.json: {key} is {value!r}, supported: {rule}.", param=key)
