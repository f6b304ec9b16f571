"""One small random model and one running server for all end-to-end tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ernie_backend.cli.__main__ import main
from ernie_backend.cli.background import RunningServer
from tests.e2e.clock import ClockServer, clock_server
from tests.e2e.server import running_server

SIZES = "num_hidden_layers=2 hidden_size=64 intermediate_size=128 num_attention_heads=4 num_key_value_heads=2 head_dim=16"


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense model in the -PT layout that loads at once; its answers are nonsense but always the same."""
    folder = tmp_path_factory.mktemp("models") / "ernie-small"
    assert main(["random-checkpoint", "--like", "ERNIE-4.5-0.3B", "--out", str(folder), "--set", *SIZES.split()]) == 0
    return folder


@pytest.fixture(scope="session")
def server(small_model: Path) -> Iterator[RunningServer]:
    """The whole of it: tritonserver, ensemble, front end. Its end is checked too: exit code 0, nothing left."""
    with running_server(small_model, max_model_len=4096, max_num_seqs=16) as running:
        yield running


@pytest.fixture(scope="session")
def clock(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> Iterator[ClockServer]:
    """A server whose model is a clock of 1 ms, and which gives a client that does not read no more than 16 KiB."""
    flags = {"max_num_seqs": 16, "max_model_len": 8192, "max_pending_bytes": 16_384}
    with clock_server(tmp_path_factory.mktemp("clock"), small_model, 0.001, **flags) as running:
        yield running
