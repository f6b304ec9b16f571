"""`ernie-triton bench engine` on a tiny model: rows for what was asked, and a roofline whose formulas are those of the docs."""

from __future__ import annotations

import json

import pytest

from ernie_backend.benchmark.roofline import Ceilings, ModelWork, decode_floor_seconds, distinct_experts, prefill_floor_seconds
from ernie_backend.benchmark.transformers_peer import TransformersPeer
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


def test_a_peer_runs_the_same_batches(tmp_path, capsys):
    out = tmp_path / "numbers.json"
    asked = ["--batch", "1,2,5", "--peer-batch", "2,5", "--prompt", "9", "--steps", "3", "--prefill", "2x7", "--out", str(out)]
    for like, sizes in (("ERNIE-4.5-21B-A3B", _TINY), ("ERNIE-4.5-0.3B", [size for size in _TINY if "moe" not in size])):
        assert main(["bench", "engine", "--like", like, "--set", *sizes, *asked, "--peer", "transformers"]) == 0
        report = json.loads(out.read_text())
        peer, ours = report["peer"], {row["batch"]: row["ms_per_step"] for row in report["decode"]}
        assert [(row["batch"], row["length"]) for row in peer["decode"]] == [(2, 12), (5, 12)]
        assert [(row["batch"], row["length"]) for row in peer["prefill"]] == [(2, 7)]
        for row in peer["decode"]:
            assert row["tokens_per_second"] == pytest.approx(row["batch"] / row["ms"] * 1e3)
            assert row["speedup"] == pytest.approx(row["ms"] / ours[row["batch"]])
            assert (row["experts"] == "dense") == ("21B" not in like)
        assert peer["prefill"][0]["tokens_per_second"] == pytest.approx(14 / peer["prefill"][0]["ms"] * 1e3)
        assert "ours is" in capsys.readouterr().out


def test_the_peer_is_the_published_class_with_our_random_weights():
    raw, config = make_config("ERNIE-4.5-21B-A3B", "pt", "float32", _TINY)
    model = TransformersPeer(raw, "float32").model
    assert type(model).__name__ == "Ernie4_5_MoeForCausalLM"
    work = ModelWork.of(config)
    matrices = sum(parameter.numel() for name, parameter in model.named_parameters() if "norm" not in name and "bias" not in name)
    assert matrices == work.every_token + work.router + work.head + work.expert * config.num_experts * work.sparse_layers
    for name, parameter in model.named_parameters():
        assert abs(parameter.detach().std().item() - (0 if "norm" in name or "bias" in name else 0.02)) < 2e-3, name
        assert ("norm" in name) == bool((parameter == 1).all()), name


def test_without_transformers_it_says_so_before_it_measures(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["bench", "engine", "--like", "ERNIE-4.5-0.3B", "--peer", "transformers"]) == 2
    assert "needs torch and transformers" in capsys.readouterr().err


def test_a_closed_loop_keeps_its_requests_in_flight(tmp_path):
    """N requests of K output tokens: every K/N-th step brings one new prompt, and every step N tokens, from the first on the clock."""
    out = tmp_path / "numbers.json"
    like = ["bench", "engine", "--like", "ERNIE-4.5-21B-A3B", "--set", *_TINY, "--batch", "", "--prefill", "", "--out", str(out)]
    assert main([*like, "--closed-loop", "24x32", "--concurrency", "4,8", "--max-num-batched-tokens", "256"]) == 0
    report = json.loads(out.read_text())
    assert report["decode"] == report["prefill"] == []
    for row, concurrency in zip(report["closed_loop"], (4, 8), strict=True):
        assert (row["concurrency"], row["prompt"], row["output"], row["preemptions"]) == (concurrency, 24, 32, 0)
        assert row["output_tokens_per_second"] * row["seconds"] == pytest.approx(concurrency * row["steps"], rel=0.05)
        assert row["prompt_tokens_per_second"] / row["output_tokens_per_second"] == pytest.approx(24 / 32, rel=0.1)
        assert row["prompt_steps"] == pytest.approx(row["steps"] * concurrency / 32, rel=0.1)
        assert row["prompt_step_ms"] > 0 and row["decode_step_ms"] > 0 and row["floor_tokens_per_second"] > 0


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        *[("--batch", "1,x"), ("--batch", "0"), ("--prefill", "10"), ("--prefill", "0x5"), ("--dtype", "bfloat16")],
        *[("--closed-loop", "1024"), ("--closed-loop", "0x5"), ("--closed-loop", "131072x1"), ("--concurrency", "0")],
        *[("--peer-batch", "3"), ("--peer-batch", "1")],  # not out of --batch; without --peer
    ],
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
