"""`ernie-triton bench server` against the real server, on both faces: what it counts is what the server made, and a failure is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ernie_backend.cli.__main__ import main
from ernie_backend.cli.background import RunningServer
from tests.e2e.observe import metric, wait_until_idle


def _url(server: RunningServer, protocol: str) -> str:
    return server.triton_grpc if protocol == "grpc" else server.openai_url.removeprefix("http://")


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_it_counts_what_the_server_made(server: RunningServer, protocol: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wait_until_idle(server)
    generated, prompts = (metric(server, f"ernie_{kind}_tokens_total") for kind in ("generation", "prompt"))
    out = tmp_path / "numbers.json"
    asked = ["--streams", "1,5", "--requests", "2", "--prompt", "70", "--tokens", "30", "--processes", "2", "--out", str(out)]
    assert main(["bench", "server", "--url", _url(server, protocol), "--protocol", protocol, *asked]) == 0
    wait_until_idle(server)
    warm_up = 1 + 2  # processes: one question each of two tokens
    assert metric(server, "ernie_generation_tokens_total") - generated == 6 * 2 * 30 + warm_up * 2
    assert metric(server, "ernie_prompt_tokens_total") - prompts == (6 * 2 + warm_up) * 70
    rows = json.loads(out.read_text())["rows"]
    assert [(row["streams"], row["processes"], row["requests"], row["failed"]) for row in rows] == [(1, 1, 2, 0), (5, 2, 10, 0)]
    for row in rows:
        assert row["tokens_per_second"] * row["seconds"] == pytest.approx(row["requests"] * 30)
        assert 0 < row["responses_per_second"] <= row["tokens_per_second"]
        assert 0 < row["first_token_ms"][0] <= row["first_token_ms"][1] < row["seconds"] * 1e3
        assert 0 <= row["inter_token_ms"][0] <= row["inter_token_ms"][1] and row["inter_token_ms"][1] > 0
    assert rows[0]["decode_tokens_per_second"] > 0
    assert "TTFT" in capsys.readouterr().out


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_refused_requests_are_failures(server: RunningServer, protocol: str, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--streams", "2", "--requests", "1", "--prompt", "4000", "--tokens", "300", "--processes", "1"]
    assert main(["bench", "server", "--url", _url(server, protocol), "--protocol", protocol, *asked]) == 1
    assert "at most 96 are left" in capsys.readouterr().out, "the server's own words"
