"""The demo model's folder without weights, and what encodes cases for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ernie_demo.encoder import Encoder
from ernie_demo.folder import write_folder


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "ernie-demo"
    write_folder(folder)
    return folder


@pytest.fixture(scope="session")
def encoder(folder: Path) -> Encoder:
    return Encoder(folder)
