"""The demo model's training in the small: what is packed, what a step does, and that a checkpoint is the model that was trained."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ernie_backend.config import ModelConfig
from ernie_demo.encoder import Encoder
from ernie_demo.loader import tensors
from ernie_demo.mixture import SKILLS, training_cases
from ernie_demo.model import Demo, build, their_config
from ernie_demo.optimizer import Optimizer, orthogonalized
from ernie_demo.packing import ROW_TOKENS, packed
from ernie_demo.train import Trainer, parse, rate_at
from ernie_demo.weights import export, load
from tests.execution.hand_scheduler import all_logits, make_runner

CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Small products: on a busy machine, threads that wait for each other take longer than the work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def examples(encoder: Encoder):
    """Two of each skill, among them several pictures in one prompt and a video."""
    rng = random.Random(1)
    return [(i, encoder.encode(skill.module.train_case(rng))) for i, skill in enumerate(SKILLS.values()) for _ in range(2)]


@pytest.fixture(scope="module")
def model(small_folder: Path):
    config = ModelConfig.from_folder(small_folder)
    model = build(their_config(config, json.loads((small_folder / "config.json").read_text())), torch.float32, seed=1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("e_score_correction_bias"):
                parameter.uniform_(-0.2, 0.2)
    return model


def test_nothing_is_lost_in_packing(examples) -> None:
    (batch,) = packed(iter(examples), 8)
    assert int(batch["num_examples"]) == len(examples)
    answers = sorted(example.token_ids[example.prompt_len :] for _, example in examples)
    found = [batch["labels"][batch["label_cases"] == i].tolist() for i in range(len(examples))]
    assert sorted(found) == answers
    following = batch["ids"].reshape(-1)[batch["label_rows"] + 1]
    inner = batch["label_rows"] % ROW_TOKENS < ROW_TOKENS - 1
    last = batch["labels"] == 2
    assert (following == batch["labels"])[inner & ~last].all()
    assert (batch["segments"] > 0).sum() == sum(len(example.token_ids) for _, example in examples)
    assert len(batch["media_rows"]) == len(batch["first_blocks"]) == sum(item.num_tokens for _, e in examples for item in e.media)


def test_a_checkpoint_is_the_model_that_was_trained(tmp_path: Path, small_folder: Path, examples, model) -> None:
    """Exported, read by our engine, and read back: the same logits as those of the packed batch that training sees."""
    export(model, small_folder, tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {path.name for path in small_folder.iterdir()} | {"model.safetensors"}
    saved = load_file(tmp_path / "out" / "model.safetensors")
    assert {str(tensor.dtype) for name, tensor in saved.items() if "gate.weight" not in name and "e_score" not in name} == {
        "torch.bfloat16"
    }
    demo = Demo(load(tmp_path / "out", torch.float32), CPU)
    (batch,) = packed(iter(examples), 8)
    with torch.no_grad():
        theirs = demo.forward(tensors(batch)).logits.numpy()
    runner = make_runner(tmp_path / "out", num_blocks=100, max_model_len=640)
    for number, (_, example) in enumerate(examples[::3]):
        ours = all_logits(runner, example.token_ids, example.media)[example.prompt_len - 1 : -1]
        cases = [
            i
            for i in range(len(examples))
            if batch["labels"][batch["label_cases"] == i].tolist() == example.token_ids[example.prompt_len :]
        ]
        nearest = min(np.abs(ours - theirs[batch["label_cases"] == i]).max() for i in cases)
        assert nearest <= 1e-4, number


def test_learning_lowers_the_loss_and_goes_on_from_its_state(tmp_path: Path, small_folder: Path) -> None:
    def trainer(*more: str) -> Trainer:
        return Trainer(
            parse(["--out", str(tmp_path / "out"), "--rows", "1", "--workers", "0", "--plan-minutes", "1000", *more]), small_folder
        )

    rng = random.Random(3)
    encoder = Encoder(small_folder)
    batch = tensors(next(packed(((i, encoder.encode(case)) for i, case in training_cases(rng)), 1)))
    one = trainer()
    one.progress.seconds = 60 * 1000 * 0.3

    def loss(of: Trainer) -> float:
        with torch.no_grad():
            return float(torch.nn.functional.cross_entropy(of.demo.forward(batch).logits, batch["labels"]))

    before = loss(one)
    for _ in range(5):
        one.step(batch)
    assert loss(one) < before - 0.5
    one.save(tmp_path / "state.safetensors")
    other = trainer("--seed", "5")
    other.resume(tmp_path / "state.safetensors")
    assert other.progress == one.progress and loss(other) == loss(one)
    for each in (one, other):
        each.step(batch)
    assert loss(one) == pytest.approx(loss(other), abs=1e-5)


def test_the_rate_rises_stays_and_falls_to_nothing() -> None:
    shares = [rate_at(i / 1000) for i in range(1001)]
    assert shares[0] == 0 and shares[-1] == 0 and max(shares) == 1 and shares.count(1.0) > 500
    top = shares.index(1.0)
    assert all(a <= b for a, b in itertools.pairwise(shares[:top])) and shares[600] == 1.0 > shares[700] > shares[900]
    assert rate_at(1.5) == 0


def test_muon_makes_steps_of_singular_values_near_one() -> None:
    matrices = torch.randn(3, 40, 24, generator=torch.Generator().manual_seed(0))
    for given in (matrices, matrices.mT.contiguous()):
        values = torch.linalg.svdvals(orthogonalized(given))
        assert values.min() > 0.5 and values.max() < 1.3


def test_parameters_that_got_no_gradient_do_not_stop_a_step() -> None:
    weights = {name: torch.nn.Parameter(torch.ones(4, 4)) for name in ("a", "b")}
    optimizer = Optimizer([*weights.items(), ("norm", torch.nn.Parameter(torch.ones(4)))])
    (weights["a"] * torch.arange(16.0).reshape(4, 4)).sum().backward()
    optimizer.step(0.01)
    assert not torch.equal(weights["a"], torch.ones(4, 4)) and weights["a"].grad is None
