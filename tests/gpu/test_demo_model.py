"""The demo model on the GPU's kernels: held-out cases of every skill, answers held against transformers in float32, token for token."""

from __future__ import annotations

import os

os.environ.setdefault("ERNIE_TENSOR_FRAMEWORK", "torch")

import pytest

from ernie_backend.config import EngineConfig, ModelConfig
from ernie_backend.execution.model_runner import ModelRunner
from ernie_backend.execution.weights import load_model
from ernie_demo_model import FOLDER
from tests.demo.parity import LONGEST, TOGETHER, Compared, compare

CASES = 8
"""Of each skill."""


@pytest.fixture(scope="module")
def compared() -> list[Compared]:
    config = ModelConfig.from_folder(FOLDER)
    model = load_model(FOLDER, config, progress=False)
    engine = EngineConfig(str(FOLDER), max_model_len=LONGEST, max_num_seqs=TOGETHER).resolved(config)
    blocks = TOGETHER * LONGEST // engine.block_size_tokens
    return compare(FOLDER, CASES, runner_for=lambda _: ModelRunner(model, config, engine, blocks))


def test_answers_are_those_of_transformers_in_float32(compared: list[Compared]) -> None:
    """bfloat16 may tip a choice that is nearly even, and then the rest of that answer is another; not more than one answer in ten."""
    same = [one.ours == one.theirs for one in compared]
    tokens = [ours == theirs for one in compared for ours, theirs in zip(one.ours, one.theirs, strict=True)]
    print(f"{sum(same)} of {len(same)} answers and {sum(tokens)} of {len(tokens)} tokens are equal")
    for one in compared:
        if one.ours != one.theirs:
            print(f"{one.skill}: ours {one.ours}\n  theirs {one.theirs}")
    assert sum(same) >= 0.9 * len(same) and sum(tokens) >= 0.99 * len(tokens)
