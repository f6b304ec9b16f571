"""The tool that times the host's part of a step runs the engine's real path, and finds every part that it names."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("options", "part", "missing"),
    [([], "fill rows", "prompt graph"), (["--turnover"], "prompt graph", "fill rows")],
    ids=["decode", "prompts"],
)
def test_parts_of_a_step(options: list[str], part: str, missing: str) -> None:
    command = [sys.executable, "-m", "tests.bench.host_steps", "--batch", "4", "--steps", "5", "--rounds", "2", *options]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert answer.returncode == 0, answer.stderr[-2000:]
    rows = {line[:16].strip(): line[16:].split() for line in answer.stdout.splitlines()}
    assert rows.pop("µs per step") == ["4"]
    assert {"schedule", "launch", part, "send", "receive", "update", "engine thread", "delivery thread"} <= rows.keys()
    assert missing not in rows and all(float(values[0]) > 0 for values in rows.values())
