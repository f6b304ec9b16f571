"""A model folder without weights: all that the steps around the engine read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ernie_backend.checkpoint_writer.chat_templates import TEXT
from ernie_backend.checkpoint_writer.tokenizer import write_tokenizer
from ernie_backend.text.tokenizer import Tokenizer

VOCAB_SIZE = 4096
CONFIG: dict[str, Any] = {
    "architectures": ["Ernie4_5ForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": VOCAB_SIZE,
    "max_position_embeddings": 4096,
    "eos_token_id": 2,
}


def write_model(folder: Path, *, template: str = TEXT, **changed: Any) -> Path:
    """config.json with some keys changed, and the tokenizer with its template."""
    write_tokenizer(folder, VOCAB_SIZE, template)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changed}), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def tokenizer(model_folder: Path) -> Tokenizer:
    return Tokenizer.from_folder(model_folder)


@pytest.fixture(scope="session")
def seeing_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose media side is ERNIE-4.5-VL's; its weights and its language side are not looked at here."""
    folder = tmp_path_factory.mktemp("seeing")
    write_tokenizer(folder, VOCAB_SIZE)
    placeholder = Tokenizer.from_folder(folder).token_id("<|IMAGE_PLACEHOLDER|>")
    vision = {"patch_size": 14, "spatial_merge_size": 2}
    write_model(folder, vision_config=vision, im_patch_id=placeholder, temporal_conv_size=2, max_position_embeddings=131072)
    without_template(folder)
    return folder


def without_template(folder: Path) -> None:
    """So that the built-in one applies."""
    path = folder / "tokenizer_config.json"
    given = json.loads(path.read_text(encoding="utf-8"))
    del given["chat_template"]
    path.write_text(json.dumps(given), encoding="utf-8")
