"""`EngineConfig`: how to serve, every field, default and check; knows no tensors. What a config.json says stands in `model_config.py`.

Frozen and read once. A wrong value raises `ConfigError` naming field, value and rule.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from .errors import ConfigError
from .log_format import LOG_FORMATS
from .media_fields import check_sources, read_limits, read_processor_kwargs
from .model_config import ModelConfig
from .model_folder import spelled_for_here
from .tracing import traces_url

DEFAULT_MAX_MODEL_LEN = 4096
"""FastDeploy's 2048 would refuse its own tutorial: a prompt and `max_tokens=2048`."""
PARSERS = ("ernie-45-vl", "ernie-45-vl-thinking", "ernie-x1")
"""Of an answer's thought and, but for the first, of its tool calls. FastDeploy's documents write them with `-` and with `_`."""
NO_PARSER = "none"


LOAD_FORMATS = ("auto", "dummy")
HEARTBEATS = "alive"
"""The folder in `runtime_dir` where each model's process gives signs of life, if whoever started tritonserver has made it."""
DRAINED = "drained"
"""The file in `runtime_dir` that the engine's process makes when it has been told to drain and no answer is under way any more."""


_PATHS = ("model", "allowed_local_media_path")
"""The Python within Triton's stub takes file names for ASCII, whatever the locale: there `/models/é` as JSON gives it is no file."""


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
    max_encoder_cache_tokens: int = -1
    """Of encoded images and videos, kept for the next turn about them. −1: as many as 512 MiB hold (1024 × 1024 pixels, which are 1,369
    tokens, take 7 MB on a GPU at hidden size 2560)."""
    max_processor_cache_gib: float = -1
    """Of decoded images and videos, kept by each preprocess process for the next turn about them. −1: half a GiB; 0: none."""
    delivery_window_responses: int = 32
    """Most responses of all requests together that postprocess has not yet consumed; further tokens wait and leave together."""
    stream_interval: int | None = None
    """Tokens of each streamed piece behind the first token. None: whatever has come while the path was busy, one token if it was not."""
    max_concurrency: int = 4096
    """Most sequences at once, running and waiting; what comes on top is answered with 429."""
    max_queued_requests: int | None = None
    """Most requests that wait for their first token to be computed; more are answered with 429. None: as `max_concurrency` says."""
    max_queued_tokens: int | None = None
    """Most tokens of the prompts of those. None: no limit."""
    max_waiting_seconds: float | None = None
    """Longest that a request may wait like this; then it ends with 408. None: no limit."""
    deterministic: bool = False
    """The order of every sum is the same however many tokens share a step, so that an answer does not depend on its neighbours to the bit.
    A CPU always computes like that; on a GPU it costs speed."""
    seed: int = 0
    """Seeds requests that give none."""
    chat_template: str | None = None
    """A jinja file, or the template itself; None: the checkpoint's own."""
    generation_config: str = "auto"
    """`auto`: sampling defaults from the model folder's generation_config.json; `vllm`: none; else a folder to read it from."""
    limit_mm_per_prompt: dict[str, int] | None = None
    """Most images and videos of one prompt, such as {"image": 10}. What is not named: 1."""
    mm_processor_kwargs: dict[str, Any] | None = None
    """How images and videos are resized and sampled (`media_fields.ProcessorKwargs`); what is not named: as the model folder says."""
    allowed_media_domains: list[str] | None = None
    """Hosts that images and videos are fetched from; `.example.com` means all below it. None: every public one."""
    allow_private_media: bool = False
    """Fetch from private addresses and from any port, too."""
    allowed_local_media_path: str | None = None
    """Read `file:` URLs below this folder. None: none are read."""
    reasoning_parser: str | None = None
    """One of `PARSERS`, or `none`. None: by the chat template."""
    tool_call_parser: str | None = None
    """One of `PARSERS` that knows calls, or `none`. None: by the chat template."""
    cpu_threads: int | None = None
    """Threads of the CPU engine. None: all cores."""
    step_timeout_seconds: float | None = None
    """A step that takes longer is taken for hung, and the engine's process ends. None: 60 on a GPU, 300 on a CPU."""
    log_format: str = "text"
    """`text` or `json`, one object a line."""
    otlp_traces_endpoint: str | None = None
    """URL that spans are sent to, by OTLP over HTTP. None: nothing is traced."""
    runtime_dir: str | None = None
    """A private folder for the relay's socket, so that `serve` can ask the engine to drain. None: a temporary one."""

    def __post_init__(self) -> None:
        _check_integer(self, "max_model_len", 2, 2**24, optional=True)  # a token of the prompt, and one of the answer
        _check_integer(self, "max_num_seqs", 1, 4096)
        _check_integer(self, "max_num_batched_tokens", 1, 2**24, optional=True)
        _check_integer(self, "block_size_tokens", 1, 1024)
        _check_integer(self, "num_blocks", 1, 2**31 - 1, optional=True)
        _check_integer(self, "max_encoder_cache_tokens", -1, 2**31 - 1)
        _check_integer(self, "delivery_window_responses", 1, 1024)
        _check_integer(self, "stream_interval", 1, 2**20, optional=True)
        _check_integer(self, "max_concurrency", 1, 2**20)
        _check_integer(self, "max_queued_requests", 0, 2**20, optional=True)
        _check_integer(self, "max_queued_tokens", 1, 2**40, optional=True)
        _check_seconds(self, "max_waiting_seconds")
        _check_integer(self, "seed", 0, 2**63 - 1)
        _check_integer(self, "cpu_threads", 1, 1024, optional=True)
        if self.step_timeout_seconds is not None and not _is_number(self.step_timeout_seconds, 1, 86400):
            raise ConfigError(
                f"step_timeout_seconds must be a number from 1 to 86400, got {self.step_timeout_seconds!r}.", param="step_timeout_seconds"
            )
        if not isinstance(self.gpu_memory_utilization, (int, float)) or not 0 < self.gpu_memory_utilization <= 1:
            raise ConfigError(
                f"gpu_memory_utilization must be above 0 and at most 1, got {self.gpu_memory_utilization!r}.",
                param="gpu_memory_utilization",
            )
        kept = self.max_processor_cache_gib
        if isinstance(kept, bool) or not isinstance(kept, (int, float)) or not (kept == -1 or 0 <= kept <= 1024):
            raise ConfigError(
                f"max_processor_cache_gib must be a number from 0 to 1024, or -1, got {kept!r}.", param="max_processor_cache_gib"
            )
        _check_parser(self, "reasoning_parser", (*PARSERS, NO_PARSER))
        _check_parser(self, "tool_call_parser", (*PARSERS[1:], NO_PARSER))
        if self.block_size_tokens & (self.block_size_tokens - 1):
            raise ConfigError(f"block_size_tokens must be a power of two, got {self.block_size_tokens}.", param="block_size_tokens")
        if self.log_format not in LOG_FORMATS:
            raise ConfigError(f"log_format must be one of {', '.join(LOG_FORMATS)}, got {self.log_format!r}.", param="log_format")
        if self.otlp_traces_endpoint is not None:
            traces_url(self.otlp_traces_endpoint)
        if self.load_format not in LOAD_FORMATS:
            raise ConfigError(f"load_format must be one of {', '.join(LOAD_FORMATS)}, got {self.load_format!r}.", param="load_format")
        read_limits({} if self.limit_mm_per_prompt is None else self.limit_mm_per_prompt, "limit_mm_per_prompt", ConfigError)
        read_processor_kwargs({} if self.mm_processor_kwargs is None else self.mm_processor_kwargs, "mm_processor_kwargs", ConfigError)
        check_sources(self.allowed_media_domains, self.allowed_local_media_path)
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
            if name in _PATHS and isinstance(value, str):
                value = spelled_for_here(value)
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
        """This configuration with every `None` decided but `num_blocks` and `step_timeout_seconds` (build.py, which knows the device)."""
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
        config = EngineConfig(**{**asdict(self), "max_model_len": max_model_len, "max_num_batched_tokens": batched})
        if config.num_blocks is not None and config.num_blocks < config.blocks_per_sequence:
            raise ConfigError(
                f"num_blocks ({config.num_blocks} of {config.block_size_tokens} tokens) must hold at least one sequence of max_model_len "
                f"({max_model_len} tokens, {config.blocks_per_sequence} blocks). Raise --num-gpu-blocks-override or lower --max-model-len.",
                param="num_blocks",
            )
        return config

    @property
    def acknowledge_every_responses(self) -> int:
        """How many responses postprocess acknowledges together: few enough that the window never waits for the last ones."""
        return max(1, self.delivery_window_responses // 8)

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


def _check_seconds(config: EngineConfig, name: str) -> None:
    value = getattr(config, name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 86400):
        raise ConfigError(f"{name} must be a number above 0 and at most 86400, got {value!r}.", param=name)


def _is_number(value: object, low: float, high: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


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
    if kind.startswith("list"):
        return [part.strip() for part in text.split(",") if part.strip()]
    if kind.startswith("dict"):
        try:
            return json.loads(text)
        except ValueError as error:
            raise ConfigError(f"{name} must be a JSON object: {error}.", param=name) from None
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
