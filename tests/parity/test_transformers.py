"""Logits and greedy tokens against transformers' own ERNIE-4.5 classes, on checkpoints that transformers itself saved."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ..execution.hand_scheduler import HandScheduler, all_logits, make_runner
from .transformers_checkpoints import CASES, make_model, save_as_paddle, save_shards

PROMPT_LENGTHS = (1, 8, 29)


class Saved(NamedTuple):
    model: torch.nn.Module
    folder: Path


@pytest.fixture(scope="module", params=list(CASES))
def saved(request, tmp_path_factory):
    """A transformers model and the folder that it was saved in."""
    folder = tmp_path_factory.mktemp("parity") / request.param
    model = make_model(CASES[request.param], seed=len(request.param))
    model.save_pretrained(folder)
    return Saved(model, folder)


def prompts(vocab_size: int) -> list[list[int]]:
    rng = np.random.default_rng(3)
    return [rng.integers(3, vocab_size, length).tolist() for length in PROMPT_LENGTHS]


def their_logits(model, token_ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor([token_ids])).logits[0].float().numpy()


def assert_greedy(model, prompt: list[int], answer: list[int]) -> None:
    """Each of the 64 tokens is the one that transformers finds most likely after the prompt and the tokens before it."""
    assert len(answer) == 64
    assert answer == their_logits(model, prompt + answer)[len(prompt) - 1 : -1].argmax(axis=-1).tolist()


def test_logits_of_every_position(saved):
    runner = make_runner(saved.folder)
    for prompt in prompts(saved.model.config.vocab_size):
        assert np.abs(all_logits(runner, prompt) - their_logits(saved.model, prompt)).max() <= 1e-4


@pytest.mark.parametrize("chunk", [10**6, 5])
def test_64_greedy_tokens_batched_and_chunked(saved, chunk):
    given = prompts(saved.model.config.vocab_size)
    for prompt, answer in zip(given, HandScheduler(make_runner(saved.folder), given).run(64, chunk), strict=True):
        assert_greedy(saved.model, prompt, answer)


@pytest.mark.parametrize("layout", ["paddle", "paddle sharded", "pt sharded", "converted"])
def test_every_layout_gives_the_same_logits(saved, tmp_path, layout):
    model, folder = saved
    other = tmp_path / "other"
    if layout.startswith("paddle"):
        save_as_paddle(folder, other, shards=3 if "sharded" in layout else 1)
    elif layout == "pt sharded":
        other.mkdir()
        shutil.copy(folder / "config.json", other)
        save_shards(load_file(folder / "model.safetensors"), other, 4)
    else:
        model.save_pretrained(other, save_original_format=False)
    prompt = prompts(model.config.vocab_size)[-1]
    assert np.array_equal(all_logits(make_runner(other), prompt), all_logits(make_runner(folder), prompt))


@pytest.mark.parametrize("name", ["dense-untied-mqa", "moe-shared-1-dense"])
def test_bfloat16_checkpoint_is_computed_in_float32(name, tmp_path):
    """Against transformers in float32 on the bfloat16 weights; router and bias, which transformers casts too, are upcast."""
    model = make_model(CASES[name], dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "pt")
    save_as_paddle(tmp_path / "pt", tmp_path / "paddle")
    model = type(model).from_pretrained(tmp_path / "pt", dtype=torch.float32).eval()  # not .float(): its rotary table was cast too
    runners = [make_runner(tmp_path / "pt"), make_runner(tmp_path / "paddle")]
    for prompt in prompts(model.config.vocab_size):
        ours = [all_logits(runner, prompt) for runner in runners]
        assert np.array_equal(*ours)
        assert np.abs(ours[0] - their_logits(model, prompt)).max() <= 1e-4
    assert_greedy(model, prompt, HandScheduler(runners[0], [prompt]).run(64)[0])


def test_the_correction_bias_of_these_checkpoints_matters():
    """Else the cases above would pass without one."""
    model = make_model(CASES["moe-shared-1-dense"])
    prompt = prompts(512)[-1]
    before = their_logits(model, prompt)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "e_score_correction_bias" in name:
                parameter.zero_()
    assert np.abs(their_logits(model, prompt) - before).max() > 1e-2
