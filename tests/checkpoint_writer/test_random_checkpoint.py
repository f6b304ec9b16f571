"""The random-checkpoint command: complete folders in both layouts that are the same model, and what it refuses."""

from __future__ import annotations

import argparse
import json
import re
import shutil

import numpy as np
import pytest
import sentencepiece

from ernie_backend.checkpoint_writer.published import MODELS, make_config
from ernie_backend.checkpoint_writer.random_weights import to_bfloat16
from ernie_backend.cli import random_checkpoint
from ernie_backend.config import ModelConfig
from ernie_backend.errors import ConfigError
from ernie_backend.execution.safetensors_file import CheckpointFolder

from ..execution.hand_scheduler import all_logits, make_runner
from ..parity.vision_checkpoints import make_prompt

DENSE = ["--set", "hidden_size=64", "num_hidden_layers=2", "intermediate_size=96", "vocab_size=600", "num_attention_heads=2"]
MOE = [*DENSE, "--set", "num_key_value_heads=1", "--set", "moe_num_experts=4", "moe_k=2", "moe_intermediate_size=16"]
TOWER = ["--set", "vision_config.depth=2", "vision_config.embed_dim=64", "vision_config.num_heads=2", "vision_config.mlp_ratio=2"]
VL = [*DENSE, *TOWER, "--set", "num_key_value_heads=1", "moe_num_experts=[4,4]", "moe_k=2", "moe_intermediate_size=[16,8]"]
OCR_TOWER = [f"vision_config.{setting}" for setting in ("hidden_size=72", "num_attention_heads=1", "intermediate_size=50", "image_size=56")]
LIKE = {
    "ERNIE-4.5-0.3B": DENSE,
    "ERNIE-4.5-21B-A3B": MOE,
    "ERNIE-4.5-300B-A47B": [*MOE, "--set", "moe_layer_start_index=1"],
    "ERNIE-4.5-VL-28B-A3B": VL,
    "ERNIE-4.5-VL-424B-A47B": [*VL, "--set", "moe_layer_start_index=[1,1]"],
    "PaddleOCR-VL-0.9B": [*DENSE, "--set", *OCR_TOWER, "vision_config.num_hidden_layers=2"],
}


def command(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    random_checkpoint.add_parser(parser.add_subparsers())
    args = parser.parse_args(["random-checkpoint", *arguments])
    return args.run(args)


def write(folder, like: str = "ERNIE-4.5-0.3B", *more: str) -> None:
    assert command("--like", like, "--out", str(folder), *LIKE[like], *more) == 0


@pytest.mark.parametrize("like", list(LIKE))
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_both_flavours_of_a_seed_are_the_same_model(tmp_path, like, dtype):
    """PaddleOCR-VL has one flavour; models that see are shown an image, too."""
    logits = []
    prompt, media = [5, 6, 7, 300, 8], ()
    if "VL" in like:
        seen = make_prompt(1, [3, (1, 4, 4), 5])
        prompt, media = seen.token_ids, seen.media
    for name, more in (("pt", []), ("paddle", []), ("sharded", ["--max-shard-size", "50KB"]), ("other", ["--seed", "1"])):
        flavour = "paddle" if name == "paddle" and "OCR" not in like else "pt"
        write(tmp_path / name, like, "--flavour", flavour, "--dtype", dtype, *more)
        logits.append(all_logits(make_runner(tmp_path / name), prompt, media))
    assert np.array_equal(logits[0], logits[1]) and np.array_equal(logits[0], logits[2])
    assert np.abs(logits[0] - logits[3]).max() > 0.05
    assert len(list((tmp_path / "sharded").glob("model-*.safetensors"))) > 3


def test_published_layout(tmp_path):
    write(tmp_path / "pt", "ERNIE-4.5-21B-A3B")
    write(tmp_path / "paddle", "ERNIE-4.5-0.3B", "--flavour", "paddle")
    pt, paddle = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("pt", "paddle"))
    assert pt["torch_dtype"] == "bfloat16" and "dtype" not in pt and pt["architectures"] == ["Ernie4_5_MoeForCausalLM"]
    assert paddle["dtype"] == "bfloat16" and "torch_dtype" not in paddle and paddle["architectures"] == ["Ernie4_5_ForCausalLM"]
    assert json.loads((tmp_path / "pt" / "generation_config.json").read_text())["eos_token_id"] == 2
    stored = CheckpointFolder(tmp_path / "pt").tensors
    gate, bias = "model.layers.1.mlp.gate.weight", "model.layers.1.mlp.moe_statics.e_score_correction_bias"
    assert (stored[gate].dtype, stored[gate].shape, stored[bias].dtype, stored[bias].shape) == ("F32", (4, 64), "F32", (1, 4))
    assert stored["model.layers.1.mlp.experts.3.up_proj.weight"].dtype == "BF16"
    stored = CheckpointFolder(tmp_path / "paddle").tensors
    assert stored["ernie.layers.0.self_attn.qkv_proj.weight"].shape == (64, (2 + 2 * 2) * 128)
    assert stored["ernie.layers.0.mlp.up_gate_proj.weight"].shape == (64, 192)
    assert "lm_head.weight" not in stored
    assert ModelConfig.from_folder(tmp_path / "pt").num_layers == 2
    assert {path.name for path in (tmp_path / "pt").iterdir()} == {
        *("config.json", "generation_config.json", "model.safetensors", "tokenizer.model", "tokenizer_config.json")
    }


def test_models_that_see_name_their_tokens_and_pixels(tmp_path):
    """In a small vocabulary the media tokens stand elsewhere, and config.json says where; PaddleOCR-VL's delimiters are one later."""
    for like, start, end in (
        ("ERNIE-4.5-VL-28B-A3B", "image_start_token_id", "image_end_token_id"),
        ("PaddleOCR-VL-0.9B", "vision_start_token_id", "vision_end_token_id"),
    ):
        folder = tmp_path / like
        write(folder, like)
        config = json.loads((folder / "config.json").read_text())
        processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        model = ModelConfig.from_folder(folder)
        assert processor.id_to_piece(model.image_token_id) == "<|IMAGE_PLACEHOLDER|>"
        assert [processor.id_to_piece(config[key]) for key in (start, end)] == ["<|IMAGE_START|>", "<|IMAGE_END|>"]
        assert json.loads((folder / "preprocessor_config.json").read_text())["image_std"] == list(model.vision.image_std)
        assert "<|IMAGE_START|>" in json.loads((folder / "tokenizer_config.json").read_text())["chat_template"]
    published = {name: make_config(name, "pt", "bfloat16", [])[0] for name in MODELS}
    assert (
        published["ERNIE-4.5-VL-28B-A3B"]["image_start_token_id"] == 101304 and published["ERNIE-4.5-VL-424B-A47B"]["im_patch_id"] == 100295
    )
    assert published["PaddleOCR-VL-0.9B"]["vision_start_token_id"] == 101305 and published["PaddleOCR-VL-0.9B"]["image_token_id"] == 100295
    assert published["ERNIE-4.5-VL-28B-A3B"] == published["ERNIE-4.5-VL-28B-A3B-Thinking"]


def test_ocr_has_one_flavour(tmp_path):
    with pytest.raises(ConfigError, match="published in one layout"):
        write(tmp_path / "new", "PaddleOCR-VL-0.9B", "--flavour", "paddle")


def test_no_weights_writes_all_the_rest(tmp_path, capsys):
    write(tmp_path / "whole", "ERNIE-4.5-21B-A3B")
    write(tmp_path / "bare", "ERNIE-4.5-21B-A3B", "--no-weights")
    assert "no weights: serve it with --load-format dummy" in capsys.readouterr().out
    bare = {path.name: path.read_bytes() for path in (tmp_path / "bare").iterdir()}
    assert bare == {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir() if path.suffix != ".safetensors"}
    assert len(bare) == 4
    # No disk has room for such weights, and none is needed.
    huge = ["--set", "num_hidden_layers=5000", "intermediate_size=10000000", "--no-weights", "--force"]
    write(tmp_path / "bare", "ERNIE-4.5-0.3B", *huge)


def test_values(tmp_path):
    write(tmp_path / "model", "ERNIE-4.5-21B-A3B", "--dtype", "float32")
    folder = CheckpointFolder(tmp_path / "model")
    with folder.open("model.safetensors") as file:
        embedding = file.read("model.embed_tokens.weight")
        assert np.all(file.read("model.norm.weight") == 1)
        bias = file.read("model.layers.1.mlp.moe_statics.e_score_correction_bias")
    assert abs(embedding.mean()) < 1e-3 and embedding.std() == pytest.approx(0.02, rel=0.02)
    assert np.all(bias != 0) and np.abs(bias).max() < 0.05


def test_bfloat16_rounds_to_nearest_even():
    values = np.array([[1.0, 1.00390625, 1.01171875, -2.5, 1.005]], np.float32)  # ties: 1 + 2⁻⁸ down, 1 + 3·2⁻⁸ up
    assert to_bfloat16(values).tolist() == [[0x3F80, 0x3F80, 0x3F82, 0xC020, 0x3F81]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "colour=1"], "unknown key 'colour'"),
        (["--set", "moe_k=2"], "unknown key 'moe_k'"),
        (["--set", "hidden_size"], "needs KEY=VALUE"),
        (["--set", "vision_config.depth=2"], "unknown key 'vision_config.depth'"),
        (["--set", "hidden_size=wide"], "hidden_size: needs a value like 1024, got 'wide'"),
        (["--set", "num_hidden_layers=0"], "num_hidden_layers is 0"),
        (["--set", "num_key_value_heads=3"], "num_key_value_heads is 3"),
        (["--set", "vocab_size=10"], "vocab_size must be at least"),
        (["--set", "use_bias=true"], "use_bias is True"),
        (["--max-shard-size", "many"], "--max-shard-size must be a size"),
        (["--max-shard-size", "0GB"], "--max-shard-size must be a size"),
        (["--seed", "-1"], "--seed must be at least 0"),
    ],
)
def test_bad_values_are_named_before_anything_is_written(tmp_path, arguments, message):
    with pytest.raises(ConfigError) as caught:
        command("--like", "ERNIE-4.5-0.3B", "--out", str(tmp_path / "new"), *arguments)
    assert message in caught.value.message
    assert not (tmp_path / "new").exists()


def test_too_many_experts_per_token(tmp_path):
    with pytest.raises(ConfigError, match=r"--set: moe_k is 65, supported: at most moe_num_experts \(64\)"):
        command("--like", "ERNIE-4.5-21B-A3B", "--out", str(tmp_path / "new"), "--set", "moe_k=65")


def test_a_full_disk_is_noticed_first(tmp_path):
    with pytest.raises(ConfigError) as caught:
        command("--like", "ERNIE-4.5-0.3B", "--out", str(tmp_path / "a" / "b"), "--set", "intermediate_size=1000000000000")
    numbers = re.fullmatch(r"The checkpoint needs ([\d.]+) GB, but .* has ([\d.]+) GB free.", caught.value.message)
    assert numbers and float(numbers[1]) == pytest.approx(18 * 3 * 1024 * 1e12 * 2 / 1e9, rel=1e-3)
    assert float(numbers[2]) == pytest.approx(shutil.disk_usage(tmp_path).free / 1e9, rel=0.1)
    assert not (tmp_path / "a").exists()


def test_an_existing_folder_is_only_replaced_when_told(tmp_path):
    folder = tmp_path / "model"
    write(folder, "ERNIE-4.5-0.3B", "--max-shard-size", "50KB")
    (folder / "notes.txt").write_text("keep me")
    with pytest.raises(ConfigError, match="is not empty"):
        write(folder)
    write(folder, "ERNIE-4.5-0.3B", "--force")
    assert [path.name for path in folder.glob("model*")] == ["model.safetensors"] and (folder / "notes.txt").exists()
    with pytest.raises(ConfigError, match="is not a folder"):
        write(folder / "notes.txt")
