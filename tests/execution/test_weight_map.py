"""Sizes from the configuration alone, and which layout a set of names is."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from ernie_backend.checkpoint_writer.published import MODELS, make_config
from ernie_backend.execution.weight_map import (
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


@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize("layout", ["pt", "paddle", "converted"])
def test_every_layout_holds_every_parameter_once(name, layout):
    _, config = make_config(name, "pt", "bfloat16", ["num_hidden_layers=5"])
    naming = replace(published_naming(config, "pt"), layout=Layout.CONVERTED) if layout == "converted" else published_naming(config, layout)
    stored = {source.tensor: math.prod(source.shape) for source in sources(config, naming)}
    assert sum(stored.values()) == num_parameters(config)
    assert {source.weight for source in sources(config, naming)} == {weight.name for weight in weights(config)}
    if config.num_experts or layout != "converted":  # a dense model has no converted layout of its own
        assert detect_naming(stored) == naming


def test_layout_is_told_by_names():
    assert detect_naming(["model.layers.0.mlp.gate_proj.weight"]) == Naming(Layout.PT, "model.")
    assert detect_naming(["model.layers.0.mlp.up_gate_proj.weight"]) == Naming(Layout.PADDLE, "model.")
    assert detect_naming(["lm_head.weight", "ernie.norm.weight"]) == Naming(Layout.PADDLE, "ernie.")


def test_only_the_prediction_head_is_ignored():
    assert is_ignored("ernie.mtp_block.0.mlp.down_proj.weight") and is_ignored("model.mtp_linear_proj.0.weight")
    assert not is_ignored("model.layers.0.mlp.gate_proj.weight")
