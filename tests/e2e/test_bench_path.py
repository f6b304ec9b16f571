"""`ernie-triton bench path`: what it prints is what real servers around a clock did."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ernie_backend.cli.__main__ import main

STREAMS, TOKENS = 3, 40


def test_pieces_of_one_token_and_the_naive_peer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "path.json"
    asked = ["--modes", "interval-1,naive", "--streams", str(STREAMS), "--tokens", str(TOKENS), "--step-ms", "10", "--out", str(out)]
    assert main(["bench", "path", *asked]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [(row["mode"], row["protocol"]) for row in rows] == [("interval-1", "grpc"), ("interval-1", "http"), ("naive", "grpc")]
    for row in rows:
        assert (row["failed"], row["error"]) == (0, None)
        assert row["tokens_per_second"] * row["seconds"] == pytest.approx(STREAMS * TOKENS)
        assert row["responses_per_second"] == pytest.approx(row["tokens_per_second"]), "one token a response"
        assert row["seconds"] >= (TOKENS - 1) * 0.010, "the clock's steps take their time"
        assert 0 < row["lateness_ms"][0] <= row["lateness_ms"][1], "no token comes before its step has ended"
        assert {"tritonserver", "engine", "postprocess", "clients"} <= set(row["cpu_seconds"]) == set(row["peak_bytes"])
        assert row["cpu_seconds"]["tritonserver"] > 0 and row["peak_bytes"]["engine"] > 2**20
    assert "late ms p50" in capsys.readouterr().out
