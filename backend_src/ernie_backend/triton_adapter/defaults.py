"""Sampling defaults and end tokens of a checkpoint: generation_config.json, else FastDeploy's; knows no request."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..config import EngineConfig, ModelConfig
from ..errors import CheckpointError, ConfigError, InvalidRequestError
from ..sampling_fields import parse_sampling_params
from ..text.tokenizer import Tokenizer

FASTDEPLOY_DEFAULTS = {"temperature": 1.0, "top_p": 0.7, "repetition_penalty": 1.0}
FILE_NAME = "generation_config.json"
_FIELDS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty")
_END_TOKENS = ("</s>", "<|end_of_sentence|>", "<|im_end|>")
"""What ERNIE's templates end an answer with; no published config.json is known to name the last two."""


def sampling_defaults(config: EngineConfig) -> dict[str, Any]:
    """Field → value for fields that a request leaves out. `CheckpointError` if generation_config.json holds an impossible value."""
    if config.generation_config == "vllm":
        return dict(FASTDEPLOY_DEFAULTS)
    folder = Path(config.model if config.generation_config == "auto" else config.generation_config)
    if config.generation_config != "auto" and not (folder / FILE_NAME).is_file():
        raise ConfigError(
            f"generation_config must be 'auto', 'vllm' or a folder with {FILE_NAME}, got {config.generation_config!r}.",
            param="generation_config",
        )
    given = _read(folder)
    chosen = {name: given[name] for name in _FIELDS if given.get(name) is not None}
    try:
        parse_sampling_params(chosen)
    except InvalidRequestError as error:
        raise CheckpointError(f"{str(folder / FILE_NAME)!r}: {error.message}", param="generation_config") from None
    return {**FASTDEPLOY_DEFAULTS, **chosen}


def end_token_ids(folder: str | Path, model: ModelConfig, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Every id that ends an answer: of generation_config.json, of config.json, and of the tokens that ERNIE's templates end one with."""
    given = _read(Path(folder)).get("eos_token_id")
    listed = given if isinstance(given, list) else [] if given is None else [given]
    if not all(isinstance(token, int) and not isinstance(token, bool) and 0 <= token < model.vocab_size for token in listed):
        raise CheckpointError(
            f"{FILE_NAME}: eos_token_id must be ids from 0 to {model.vocab_size - 1}, got {given!r}.", param="eos_token_id"
        )
    named = [token for name in _END_TOKENS if (token := tokenizer.token_id(name)) is not None]
    return tuple(sorted({*listed, *model.eos_token_ids, *named}))


def _read(folder: Path) -> dict[str, Any]:
    path = folder / FILE_NAME
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"Cannot read {str(path)!r}: {error}.", param="generation_config") from None
    if not isinstance(given, dict):
        raise CheckpointError(f"{str(path)!r} must hold a JSON object.", param="generation_config")
    return given
