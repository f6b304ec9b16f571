"""The model repository: the public signature, and that the four configurations fit together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

REPOSITORY = Path(__file__).parents[2] / "model_repository"
INPUTS = {
    "text_input": ("TYPE_STRING", 1),
    "chat": ("TYPE_STRING", 1),
    "image": ("TYPE_STRING", -1),
    "sampling_parameters": ("TYPE_STRING", 1),
    "max_tokens": ("TYPE_INT32", 1),
    "stream": ("TYPE_BOOL", 1),
    "exclude_input_in_output": ("TYPE_BOOL", 1),
}
OUTPUTS = {
    "text_output": ("TYPE_STRING", 1),
    "reasoning_output": ("TYPE_STRING", 1),
    "tool_calls": ("TYPE_STRING", 1),
    "finish_reason": ("TYPE_STRING", 1),
    "token_ids": ("TYPE_INT32", -1),
    "logprobs": ("TYPE_STRING", 1),
    "usage": ("TYPE_STRING", 1),
    "index": ("TYPE_INT32", 1),
    "error": ("TYPE_STRING", 1),
}


def read(name: str) -> Any:
    text = (REPOSITORY / name / "config.pbtxt").read_text(encoding="utf-8")
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    assert config.name == name and config.max_batch_size == 0
    return config


def signature(tensors: Any) -> dict[str, tuple[str, int]]:
    return {tensor.name: (model_config_pb2.DataType.Name(tensor.data_type), *tensor.dims) for tensor in tensors}


def test_the_ensembles_signature() -> None:
    ensemble = read("ernie")
    assert signature(ensemble.input) == INPUTS
    assert signature(ensemble.output) == OUTPUTS
    assert all(tensor.optional for tensor in ensemble.input)


@pytest.mark.parametrize("step", range(3))
def test_each_step_gets_and_gives_all_of_its_models_tensors(step: int) -> None:
    ensemble = read("ernie")
    mapped = ensemble.ensemble_scheduling.step[step]
    model = read(mapped.model_name)
    assert set(mapped.input_map) == set(signature(model.input))
    assert set(mapped.output_map) == set(signature(model.output))
    assert all(name == tensor for maps in (mapped.input_map, mapped.output_map) for name, tensor in maps.items())


def test_what_one_step_gives_the_next_one_takes() -> None:
    preprocess, engine, postprocess = (read(f"ernie_{name}") for name in ("preprocess", "engine", "postprocess"))
    assert signature(preprocess.input) == INPUTS and all(tensor.optional for tensor in preprocess.input)
    assert signature(preprocess.output) == signature(engine.input)
    assert [tensor.name for tensor in engine.input if tensor.optional] == ["media", "patches"], "which text prompts do not have"
    assert signature(engine.output) == signature(postprocess.input)
    assert signature(postprocess.output) == OUTPUTS


def test_who_is_decoupled_and_order_is_kept() -> None:
    for name, count in (("ernie_preprocess", 2), ("ernie_engine", 1), ("ernie_postprocess", 1)):
        model = read(name)
        (group,) = model.instance_group
        assert (group.count, group.kind) == (count, model_config_pb2.ModelInstanceGroup.KIND_CPU)
        assert not model.HasField("dynamic_batching")
        assert model.model_transaction_policy.decoupled == (name != "ernie_postprocess")


@pytest.mark.parametrize("name", ["ernie_preprocess", "ernie_engine", "ernie_postprocess"])
def test_model_files_hold_no_logic(name: str) -> None:
    assert len((REPOSITORY / name / "1" / "model.py").read_text(encoding="utf-8").splitlines()) < 60
