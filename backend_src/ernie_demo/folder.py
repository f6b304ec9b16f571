"""The demo model's folder, but for its weights: configuration, prompt template, pixel limits; trains nothing.

The files are those of a published checkpoint (`-PT`), made by the code that makes random ones; only sizes, limits and the sentence that
introduces the model differ.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ernie_backend.checkpoint_writer.published import GENERATION_CONFIG, make_config, preprocessor_config
from ernie_backend.text.vl_templates import ERNIE_VL_THINKING

from .tokenizer import VOCAB_SIZE, write_tokenizer

LIKE = "ERNIE-4.5-VL-28B-A3B-Thinking"
INTRODUCTION = "You are the demo model of ernie-triton."
"""The system message of a conversation that brings none."""

SIZES = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "max_position_embeddings": 4096,
    "moe_num_experts": [6, 6],
    "moe_k": 2,
    "moe_intermediate_size": [128, 64],
    "moe_num_shared_experts": 1,
    "moe_layer_end_index": [4, 4],
    "vision_config.depth": 6,
    "vision_config.embed_dim": 160,
    "vision_config.num_heads": 2,
}
"""11.8 million parameters: 4.2 of them see, 1.3 are the embeddings. Heads are as wide as the published models': 128, and 80 in the tower."""

_AREA = 28 * 28
IMAGE_PIXELS = (16 * _AREA, 64 * _AREA)
"""Least and most of a picture as the model sees it: 16 to 64 tokens."""
VIDEO = {"min_pixels": 9 * _AREA, "max_pixels": 16 * _AREA, "fps": 2, "min_frames": 4, "max_frames": 8}
"""At most 64 tokens."""


def write_folder(folder: Path, sizes: Mapping[str, object] = MappingProxyType(SIZES)) -> None:
    """Everything but the weights, config.json last."""
    folder.mkdir(parents=True, exist_ok=True)
    config, _ = make_config(LIKE, "pt", "bfloat16", [f"{key}={json.dumps(value)}" for key, value in sizes.items()])
    write_tokenizer(folder, _template())
    preprocessor = preprocessor_config(config)
    assert preprocessor is not None, "it sees"
    least, most = IMAGE_PIXELS
    _write_json(folder / "preprocessor_config.json", preprocessor | {"min_pixels": least, "max_pixels": most})
    _write_json(folder / "video_preprocessor_config.json", {"video_processor_type": "Ernie4_5_VLMoeVideoProcessor", **VIDEO})
    _write_json(folder / "generation_config.json", GENERATION_CONFIG | {"do_sample": False, "temperature": 0.0, "top_p": 1.0})
    _write_json(folder / "config.json", config)


def _template() -> str:
    """The Thinking model's, with a sentence of our own."""
    begin = "{%- set default = '"
    head, found, rest = ERNIE_VL_THINKING.partition(begin)
    assert found, "the template sets the sentence that stands where no system message is"
    return head + begin + INTRODUCTION + rest[rest.index("' -%}") :]


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
