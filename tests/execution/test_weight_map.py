"""Sizes from the configuration alone, and which layout a set of names is."""

from __future__ import annotations

import math

import pytest

from ernie_backend.checkpoint_writer.published import MODELS, make_config
from ernie_backend.execution.weight_map import (
    Kind,
    Layout,
    Naming,
    detect_naming,
    is_ignored,
    num_parameters,
    published_naming,
    sources,
    weights,
)


@pytest.mark.parametrize(
    ("name", "tied", "expected"),
    [
        ("ERNIE-4.5-0.3B", "true", 360_748_032),
        ("ERNIE-4.5-21B-A3B", "true", 21_825_437_888),
        ("ERNIE-4.5-300B-A47B", "true", 298_636_913_856),
        ("ERNIE-4.5-300B-A47B", "false", 299_484_163_264),
    ],
)
def test_parameter_counts_of_the_published_models(name, tied, expected):
    _, config = make_config(name, "pt", "bfloat16", [f"tie_word_embeddings={tied}"])
    assert num_parameters(config) == expected


CONVERTED = {
    "vl": Naming(Layout.CONVERTED, "model.language_model.", "model.vision_tower.", "model.resampler_model."),
    "ocr": Naming(Layout.CONVERTED, "model.language_model.", "model.visual.vision_model.", "model.projector."),
}


@pytest.mark.parametrize(
    ("name", "text", "tower", "connector"),
    [
        ("ERNIE-4.5-VL-28B-A3B", 28_624_635_776, 630_433_280, 144_225_280),
        ("ERNIE-4.5-VL-424B-A47B", 422_722_779_520, 630_433_280, 173_072_384),
        ("PaddleOCR-VL-0.9B", 360_748_032 + 103424 * 1024, 412_987_248, 25_960_192),
    ],
)
def test_parameter_counts_of_the_published_models_that_see(name, text, tower, connector):
    _, config = make_config(name, "pt", "bfloat16", [])
    counts = {"vision": 0, "resampler": 0, "projector": 0, "text": 0}
    for weight in weights(config):
        part = weight.name.split(".")[0]
        counts[part if part in counts else "text"] += (3 if weight.kind is Kind.EXPERTS else 1) * math.prod(weight.shape)
    assert (counts["text"], counts["vision"], counts["resampler"] + counts["projector"]) == (text, tower, connector)


@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize("layout", ["pt", "paddle", "converted"])
def test_every_layout_holds_every_parameter_once(name, layout):
    _, config = make_config(name, "pt", "bfloat16", ["num_hidden_layers=5"])
    if layout == "converted":
        naming = CONVERTED.get(config.architecture, Naming(Layout.CONVERTED, "model."))
    else:
        naming = published_naming(config, layout)
    stored = {source.tensor: math.prod(source.shape) for source in sources(config, naming)}
    assert sum(stored.values()) == num_parameters(config)
    assert {source.weight for source in sources(config, naming)} == {weight.name for weight in weights(config)}
    if config.architecture == "ocr" and layout == "paddle":
        return  # published in one layout, and told as such
    if config.architecture != "dense" or layout != "converted":  # a dense model has no converted layout of its own
        assert detect_naming(stored) == naming


def test_layout_is_told_by_names():
    assert detect_naming(["model.layers.0.mlp.gate_proj.weight"]) == Naming(Layout.PT, "model.")
    assert detect_naming(["model.layers.0.mlp.up_gate_proj.weight"]) == Naming(Layout.PADDLE, "model.")
    assert detect_naming(["lm_head.weight", "ernie.norm.weight"]) == Naming(Layout.PADDLE, "ernie.")


def test_only_the_prediction_head_is_ignored():
    assert is_ignored("ernie.mtp_block.0.mlp.down_proj.weight") and is_ignored("model.mtp_linear_proj.0.weight")
    assert not is_ignored("model.layers.0.mlp.gate_proj.weight")
