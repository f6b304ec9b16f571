"""What a broken model folder is answered with: file, tensor, expected and found, before any weight is read."""

from __future__ import annotations

import json
import logging
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ernie_backend.build import build_core
from ernie_backend.config import EngineConfig, ModelConfig
from ernie_backend.errors import CheckpointError
from ernie_backend.execution.safetensors_file import CheckpointFolder, SafetensorsFile
from ernie_backend.execution.weights import WeightLoader, copy_transformed, load_model

from .tiny import write_tiny

Q_PROJ = "model.layers.1.self_attn.q_proj.weight"


@pytest.fixture
def folder(tmp_path) -> Path:
    write_tiny(tmp_path / "model")
    return tmp_path / "model"


def load(folder: Path):
    return load_model(folder, ModelConfig.from_folder(folder), progress=False)


def change(folder: Path, edit) -> None:
    """Rewrite model.safetensors after `edit(tensors)`."""
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    return caught.value.message


def test_missing_tensors_are_named(folder):
    change(folder, lambda tensors: tensors.pop(Q_PROJ))
    assert "1 missing: " + Q_PROJ in refusal(folder)


def test_tensors_without_a_use_are_named(folder):
    change(folder, lambda tensors: tensors.update({"model.layers.7.stray": np.ones(3, np.float32)}))
    assert "1 without a use: model.layers.7.stray" in refusal(folder)


def test_wrong_shape(folder):
    change(folder, lambda tensors: tensors.update({Q_PROJ: np.zeros((48, 64), np.float32)}))
    assert refusal(folder) == f"model.safetensors: tensor {Q_PROJ} has shape [48, 64], expected [64, 64]."


def test_a_tensor_in_the_other_orientation_says_so(folder):
    name = "model.layers.0.mlp.down_proj.weight"
    change(folder, lambda tensors: tensors.update({name: tensors[name].T.copy()}))
    assert "has shape [96, 64], expected [64, 96] (as if it were stored in the other flavour's orientation)" in refusal(folder)


def test_wrong_dtype(folder):
    change(folder, lambda tensors: tensors.update({Q_PROJ: tensors[Q_PROJ].astype(np.int8)}))
    assert refusal(folder) == f"model.safetensors: tensor {Q_PROJ} has dtype I8, expected one of BF16, F16, F32."


@pytest.mark.parametrize("name", ["quant_weight", "weight_scale"])
def test_quantised_weights_are_named_as_such(folder, name):
    at = "model.layers.0.mlp.down_proj."
    change(folder, lambda tensors: tensors.update({at + name: tensors.pop(at + "weight").astype(np.int8)}))
    assert refusal(folder) == (
        f"model.safetensors: tensor {at}{name} belongs to quantised weights, which are not supported yet. Use the bfloat16 checkpoint."
    )


def test_a_pointer_of_git_lfs(folder):
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    assert refusal(folder).startswith("model.safetensors is not the file itself but a pointer of Git LFS")


def test_links_to_nowhere(tmp_path):
    write_tiny(tmp_path / "model", shard_bytes=100_000)
    shard = min((tmp_path / "model").glob("*.safetensors"))
    shard.unlink()
    shard.symlink_to("../blobs/0a1b")
    assert refusal(tmp_path / "model") == f"{shard.name} is a link to '../blobs/0a1b', which does not exist."
    (tmp_path / "model" / "model.safetensors").symlink_to("nowhere")
    assert refusal(tmp_path / "model") == "model.safetensors is a link to 'nowhere', which does not exist."


@pytest.mark.parametrize("flavour", ["pt", "paddle"])
def test_matrices_of_zeros_are_told(tmp_path, caplog, flavour):
    """As a download that was cut off leaves them in a file of the right length."""
    write_tiny(tmp_path / "model", moe=True, flavour=flavour)
    load(tmp_path / "model")
    assert "zeros" not in caplog.text
    name = ("ernie" if flavour == "paddle" else "model") + ".layers.1.mlp.experts.3.down_proj.weight"
    change(tmp_path / "model", lambda tensors: tensors[name].fill(0))
    load(tmp_path / "model")
    assert f"1 matrices of the checkpoint hold nothing but zeros: {name} (in model.safetensors)." in caplog.text


@pytest.mark.parametrize("name", [Q_PROJ, "model.norm.weight", "model.embed_tokens.weight"])
def test_weights_that_give_no_finite_logits(folder, name):
    def spoil(tensors):
        tensors[name].flat[-1] = np.nan

    def build():
        model = ModelConfig.from_folder(folder)
        build_core(EngineConfig(str(folder), max_model_len=32, max_num_seqs=2, num_blocks=2).resolved(model), model)

    build()
    change(folder, spoil)
    with pytest.raises(CheckpointError, match="give logits that are not finite"):
        build()


def test_truncated_data(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert "model.safetensors is truncated: tensor " in refusal(folder) and "the file at byte" in refusal(folder)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x10",
        b"\xff" * 8,
        b"\x40" + b"\0" * 7 + b"{}",
        b"\x02" + b"\0" * 7 + b"{]",
        b"\x02" + b"\0" * 7 + b"[]",
        (10**5).to_bytes(8, "little") + b"[" * 10**5,
    ],
)
def test_corrupt_header(folder, content):
    (folder / "model.safetensors").write_bytes(content)
    assert refusal(folder).startswith("model.safetensors ")


@pytest.mark.parametrize(
    "entry",
    [
        None,
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]},
        {"dtype": "F32", "shape": [1], "data_offsets": [0]},
        {"dtype": 3, "shape": [1], "data_offsets": [0, 4]},
        {"shape": [1], "data_offsets": [0, 4]},
    ],
)
def test_corrupt_header_entry_names_the_tensor(folder, entry):
    header = json.dumps({"some.tensor": entry}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 8)
    assert "corrupt header" in refusal(folder) and "some.tensor" in refusal(folder)


def test_a_folder_without_weights(folder):
    (folder / "model.safetensors").unlink()
    told = refusal(folder)
    assert "neither model.safetensors nor model.safetensors.index.json" in told and "--load-format dummy" in told


def test_missing_shard_and_absent_tensor(tmp_path):
    write_tiny(tmp_path / "model", shard_bytes=100_000)
    shards = sorted((tmp_path / "model").glob("*.safetensors"))
    assert len(shards) > 2
    load(tmp_path / "model")
    index = tmp_path / "model" / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["model.ghost.weight"] = shards[0].name
    index.write_text(json.dumps(content))
    assert f"names tensors that its shards do not hold: model.ghost.weight (in {shards[0].name})" in refusal(tmp_path / "model")
    shards[1].unlink()
    assert f"names the shard {shards[1].name}, which is not in" in refusal(tmp_path / "model")


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": 1}}', '{"weight_map": {"a": "../b.safetensors"}}']
)
def test_unreadable_index(folder, content):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(content)
    assert "model.safetensors.index.json" in refusal(folder)


def test_a_tensor_in_two_shards(folder):
    for name in ("a.safetensors", "b.safetensors"):
        shutil.copy(folder / "model.safetensors", folder / name)
    (folder / "model.safetensors").unlink()
    weight_map = {Q_PROJ: "a.safetensors", "model.norm.weight": "b.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert "is in two files, a.safetensors and b.safetensors" in refusal(folder)


@pytest.mark.parametrize("flavour", ["pt", "paddle"])
def test_a_tied_head_that_is_stored_must_equal_the_embedding(tmp_path, flavour):
    folder = tmp_path / "model"
    write_tiny(folder, flavour=flavour)
    embedding = "ernie.embed_tokens.weight" if flavour == "paddle" else "model.embed_tokens.weight"
    head = (lambda array: array.T.copy()) if flavour == "paddle" else np.copy
    change(folder, lambda tensors: tensors.update({"lm_head.weight": head(tensors[embedding])}))
    load(folder)
    change(folder, lambda tensors: tensors["lm_head.weight"].__setitem__((5, 7), 1.0))
    assert refusal(folder) == "model.safetensors: tensor lm_head.weight differs from the embedding although tie_word_embeddings is true."


def test_an_untied_model_needs_its_head(tmp_path):
    folder = tmp_path / "model"
    write_tiny(folder, "tie_word_embeddings=false")
    load(folder)
    change(folder, lambda tensors: tensors.pop("lm_head.weight"))
    assert "1 missing: lm_head.weight" in refusal(folder)


def test_prediction_head_is_left_alone(folder, caplog):
    change(folder, lambda tensors: tensors.update({"model.mtp_block.0.mlp.down_proj.weight": np.ones((2, 2), np.float32)}))
    with caplog.at_level(logging.INFO):
        load(folder)
    assert "Ignoring 1 tensors" in caplog.text and "file 1 of 1, model.safetensors" in caplog.text


def test_precision_follows_the_checkpoint(tmp_path):
    write_tiny(tmp_path / "bf16", dtype="bfloat16")
    write_tiny(tmp_path / "f32")
    assert load(tmp_path / "bf16").embedding.weight.nbytes * 2 == load(tmp_path / "f32").embedding.weight.nbytes == 600 * 64 * 4


def test_float16_is_read_as_float32(folder, caplog):
    expected = load_file(folder / "model.safetensors")[Q_PROJ].astype(np.float16).astype(np.float32)
    change(folder, lambda tensors: tensors.update({name: array.astype(np.float16) for name, array in tensors.items()}))
    qkv = load(folder).layers[1].attention.qkv
    assert qkv.nbytes == (64 + 2 * 32) * 64 * 4
    assert np.array_equal(qkv.array[:64], expected)
    assert not caplog.text, "nothing is rounded on a CPU"


@pytest.mark.parametrize("shape", [(7,), (600, 33), (1030, 513), (3, 40, 9)])
def test_copies_convert_and_transpose(shape):
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**15, shape).astype(np.uint16)
    values = (bits.astype(np.uint32) << 16).view(np.float32)
    target = np.empty(shape, np.float32)
    copy_transformed(target, bits, transposed=False)
    assert np.array_equal(target, values, equal_nan=True)
    if len(shape) == 2:
        target = np.empty(shape[::-1], np.uint16)
        copy_transformed(target, bits, transposed=True)
        assert np.array_equal(target, bits.T)


def test_headers_alone_are_read_for_the_checks(folder):
    assert CheckpointFolder(folder).tensors[Q_PROJ].shape == (64, 64)


def test_every_weight_must_be_filled_and_taken(folder):
    loader = WeightLoader(CheckpointFolder(folder), ModelConfig.from_folder(folder))
    with pytest.raises(CheckpointError, match=r"Weight norm was not filled"):
        loader.take("norm")
    loader.read(progress=False)
    for name in list(loader.packed):
        if name != "layers.1.mlp.down":
            loader.take(name)
    with pytest.raises(CheckpointError, match=r"without a use in the model: layers\.1\.mlp\.down\."):
        loader.check_taken()


def test_a_file_that_shrinks_while_it_is_read(folder):
    path = folder / "model.safetensors"
    with SafetensorsFile(path) as file:
        last = max(file.tensors.values(), key=lambda tensor: tensor.start)
        with open(path, "r+b") as other:
            other.truncate(last.start + 8)
        with pytest.raises(CheckpointError, match=rf"tensor {last.name} has {last.nbytes} bytes, 8 could be read"):
            file.read(last.name)


@pytest.mark.parametrize("flavour", ["pt", "paddle"])
def test_peak_memory_is_the_model_and_one_tensor(tmp_path, flavour):
    sizes = ["hidden_size=512", "vocab_size=4000", "intermediate_size=1024", "num_hidden_layers=6", "tie_word_embeddings=false"]
    config = write_tiny(tmp_path / "model", *sizes, flavour=flavour, dtype="bfloat16")
    stored = [tensor.nbytes for tensor in CheckpointFolder(tmp_path / "model").tensors.values()]
    tracemalloc.start()
    model = load_model(tmp_path / "model", config, progress=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert model.head.nbytes == max(stored)
    assert sum(stored) * 0.9 < peak < sum(stored) + max(stored) + 500_000
