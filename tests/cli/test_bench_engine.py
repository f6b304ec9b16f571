"""`ernie-triton bench engine` on a tiny model: rows for what was asked, and a roofline whose formulas are those of the docs."""

from __future__ import annotations

import json

import pytest

from ernie_backend.benchmark.roofline import Ceilings, ModelWork, decode_floor_seconds, distinct_experts, prefill_floor_seconds
from ernie_backend.checkpoint_writer.published import make_config
from ernie_backend.cli.__main__ import main

_TINY = ["num_hidden_layers=2", "hidden_size=64", "intermediate_size=96", "moe_intermediate_size=32", "vocab_size=500", "head_dim=16"]


def test_it_measures_what_was_asked(tmp_path, capsys):
    out = tmp_path / "numbers.json"
    like = ["bench", "engine", "--like", "ERNIE-4.5-21B-A3B", "--set", *_TINY]
    assert main([*like, "--batch", "1,3", "--prompt", "70", "--steps", "4", "--prefill", "1x100,2x30", "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    assert [(row["batch"], row["context"]) for row in report["decode"]] == [(1, 80), (3, 80)]
    assert [(row["prompts"], row["length"]) for row in report["prefill"]] == [(1, 100), (2, 30)]
    for row in (*report["decode"], *report["prefill"]):
        assert row["tokens_per_second"] > 0 and row["floor_ms"] > 0
    for row in report["decode"]:
        assert row["tokens_per_second"] == pytest.approx(row["batch"] / row["ms_per_step"] * 1e3)
    assert "tokens/s" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flag", "value"), [("--batch", "1,x"), ("--batch", "0"), ("--prefill", "10"), ("--prefill", "0x5"), ("--dtype", "bfloat16")]
)
def test_bad_flags_are_named(flag, value, capsys):
    assert main(["bench", "engine", "--like", "ERNIE-4.5-0.3B", flag, value]) == 2
    assert flag in capsys.readouterr().err


def test_the_roofline_of_the_published_sizes():
    _, config = make_config("ERNIE-4.5-21B-A3B", "pt", "bfloat16", [])
    assert ModelWork.of(config).active(config) == pytest.approx(3.352e9, rel=1e-3)
    assert [round(distinct_experts(config, batch), 1) for batch in (1, 4, 16, 64)] == [6.0, 20.8, 50.8, 63.9]
    ceilings = Ceilings(copy=4.3e12, read=4.3e12, matmul=788e12)
    halved = decode_floor_seconds(config, ceilings, 1, 1024) / 2  # float32 here: twice the bytes of the weights and of the cache
    assert halved == pytest.approx(1.57e-3, rel=0.01)
    assert prefill_floor_seconds(config, ceilings, 1, 8192) == pytest.approx(76.4e-3, rel=0.01)
    _, dense = make_config("ERNIE-4.5-0.3B", "pt", "bfloat16", [])
    assert ModelWork.of(dense).active(dense) == pytest.approx(0.361e9, rel=2e-3) and distinct_experts(dense, 8) == 0
