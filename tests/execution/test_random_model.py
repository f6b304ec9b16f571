"""Random weights in place of a checkpoint: their values, and an engine built on a folder that has none."""

from __future__ import annotations

import numpy as np
import pytest

from ernie_backend.build import build_core
from ernie_backend.checkpoint_writer.published import make_config
from ernie_backend.cli.__main__ import main
from ernie_backend.config import EngineConfig, ModelConfig
from ernie_backend.errors import CheckpointError
from ernie_backend.execution.random_model import random_weights, weight_bytes
from ernie_backend.execution.weight_map import weights
from ernie_backend.protocol import FinishReason, GenerateRequest, SamplingParams
from ernie_kernels import ops, xp

SIZES = ["num_hidden_layers=2", "hidden_size=64", "intermediate_size=96", "vocab_size=600", "num_attention_heads=2", "moe_num_experts=4"]
MOE = [*SIZES, "num_key_value_heads=1", "moe_k=2", "moe_intermediate_size=16"]


def _arrays(weight: object) -> list[np.ndarray]:
    if isinstance(weight, ops.ExpertWeights):
        return [weight.gate_up, weight.down]
    return [weight.array if isinstance(weight, (ops.LinearWeight, ops.EmbeddingWeight)) else xp.to_numpy(weight)]


def test_values_and_bytes():
    _, config = make_config("ERNIE-4.5-21B-A3B", "pt", "bfloat16", MOE)
    take, total = random_weights(config), 0
    for weight in weights(config):
        arrays = _arrays(take(weight.name))
        total += sum(array.nbytes for array in arrays)
        for array in arrays:
            if "norm" in weight.name:
                assert np.all(array == 1)
            elif weight.name.endswith("router.bias"):
                assert np.all(array == 0)
            else:
                assert abs(array.mean()) < 5 * 0.02 / array.size**0.5 and array.std() == pytest.approx(0.02, rel=0.15), weight.name
    assert total == weight_bytes(config)


def test_an_engine_on_a_folder_without_weights(tmp_path):
    folder = tmp_path / "model"
    assert main(["random-checkpoint", "--like", "ERNIE-4.5-21B-A3B", "--no-weights", "--out", str(folder), "--set", *MOE]) == 0
    model_config = ModelConfig.from_folder(folder)
    core = build_core(
        EngineConfig(str(folder), load_format="dummy", max_model_len=128, max_num_seqs=2).resolved(model_config), model_config
    )
    assert core.stats().num_blocks == 4, "sized as for a checkpoint: two sequences of 128 tokens in blocks of 64"
    core.add(GenerateRequest("a" * 32, (5, 6, 7), SamplingParams(max_tokens=9, temperature=0.0)))
    events = [event for _ in range(9) for event in core.step().events]
    assert sum(len(event.token_ids) for event in events) == 9 and events[-1].finish_reason is FinishReason.LENGTH
    with pytest.raises(CheckpointError):
        build_core(EngineConfig(str(folder), max_model_len=128).resolved(model_config), model_config)
