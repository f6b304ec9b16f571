"""The demo model's folder without weights, and what encodes cases for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ernie_demo.encoder import Encoder
from ernie_demo.folder import SIZES, write_folder


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "ernie-demo"
    write_folder(folder)
    return folder


SMALL = {"hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 2, "moe_intermediate_size": [64, 64]}
SMALL_VISION = {"vision_config.depth": 1, "vision_config.embed_dim": 32}


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a model that learns a step in a moment."""
    folder = tmp_path_factory.mktemp("demo") / "small"
    write_folder(folder, SIZES | SMALL | SMALL_VISION)
    return folder


@pytest.fixture(scope="session")
def encoder(folder: Path) -> Encoder:
    return Encoder(folder)
