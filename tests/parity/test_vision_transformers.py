"""Models that see against transformers' own classes, on checkpoints that transformers saved: tower, connector, logits, greedy tokens.

Where transformers and Paddle's stacks disagree, Paddle's rule is ours, and the test says so.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Ernie4_5_MoeForCausalLM

from ernie_backend.config import ModelConfig
from ernie_backend.execution.sequence_media import SequenceMedia
from ernie_backend.protocol import MediaKind
from ernie_kernels import xp

from ..execution.hand_scheduler import HandScheduler, all_logits, make_runner
from .transformers_checkpoints import save_shards
from .vision_checkpoints import (
    CASES,
    IMAGE_PROMPTS,
    VIDEO_PROMPTS,
    Prompt,
    flat_config,
    make_item,
    make_model,
    make_prompt,
    normalized,
    save_as_paddle,
)

TOLERANCE = 1e-4


class Saved(NamedTuple):
    name: str
    model: torch.nn.Module
    folder: Path

    @property
    def prompts(self) -> dict[str, Prompt]:
        parts = IMAGE_PROMPTS if self.name == "ocr" else {**IMAGE_PROMPTS, **VIDEO_PROMPTS}
        return {name: make_prompt(seed, given) for seed, (name, given) in enumerate(parts.items())}


@pytest.fixture(scope="module", params=list(CASES))
def saved(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("parity") / request.param
    model = make_model(request.param, seed=len(request.param))
    model.save_pretrained(folder)
    return Saved(request.param, model, folder)


def their_logits(saved: Saved, prompt: Prompt, extra: list[int] | None = None, **more: torch.Tensor) -> np.ndarray:
    given = {**prompt.theirs(extra or []), **more}
    if saved.name == "ocr":
        del given["moe_mm_token_type_ids"]
        if "pixel_values" in given:
            given["pixel_values"] = given["pixel_values"].reshape(-1, 3, 14, 14)
    saved.model.model.rope_deltas = None  # left over from the prompt before
    with torch.no_grad():
        return saved.model(**given).logits[0].numpy()


def test_tower_and_connector_alone(saved):
    ours = make_runner(saved.folder).model.model
    rng = np.random.default_rng(4)
    for grid in [(1, 2, 2), (1, 4, 10), (1, 16, 6), *([] if saved.name == "ocr" else [(4, 6, 4), (2, 2, 2)])]:
        item = make_item(rng, grid, MediaKind.IMAGE)
        pixels = np.frombuffer(item.patches, np.uint8).reshape(-1, 588)
        rows = ours.tower.forward(pixels, grid)
        grids = torch.tensor([grid])
        with torch.no_grad():
            if saved.name == "ocr":
                theirs = saved.model.model.visual(normalized(item).reshape(1, -1, 3, 14, 14), grid_thw=grids).last_hidden_state
                theirs = theirs.reshape(-1, theirs.shape[-1])
                connected = saved.model.model.projector(theirs, grids)
            else:
                theirs = saved.model.model.vision_tower(normalized(item), grids).last_hidden_state
                connected = saved.model.model.resampler_model(theirs, grids)
        assert np.abs(xp.to_numpy(rows) - theirs.numpy()).max() <= TOLERANCE
        connector = ours.projector if saved.name == "ocr" else ours.resampler
        found = xp.to_numpy(connector.forward(xp.from_numpy(theirs.numpy()), grid))
        assert found.shape == connected.shape and np.abs(found - connected.numpy()).max() <= TOLERANCE


def test_logits_of_every_position(saved):
    runner = make_runner(saved.folder)
    for name, prompt in saved.prompts.items():
        found = all_logits(runner, prompt.token_ids, prompt.media)
        assert np.abs(found - their_logits(saved, prompt)).max() <= TOLERANCE, name


@pytest.mark.parametrize("chunk", [10**6, 5])
def test_32_greedy_tokens_batched_and_chunked(saved, chunk):
    """Each is the one that transformers finds most likely after the prompt and the tokens before it; chunks of 5 cut every image."""
    prompts = list(saved.prompts.values())
    hand = HandScheduler(make_runner(saved.folder, num_blocks=128), [p.token_ids for p in prompts], media=[p.media for p in prompts])
    for prompt, answer in zip(prompts, hand.run(32, chunk), strict=True):
        assert len(answer) == 32
        theirs = their_logits(saved, prompt, answer)[len(prompt.token_ids) - 1 : -1]
        assert answer == theirs.argmax(axis=-1).tolist()


@pytest.mark.parametrize("layout", ["paddle", "paddle sharded", "pt", "pt sharded", "converted"])
def test_every_layout_gives_the_same_logits(saved, tmp_path, layout):
    other = tmp_path / "other"
    if layout == "converted":
        saved.model.save_pretrained(other, save_original_format=False)
    elif saved.name == "ocr":
        if "pt" not in layout:
            pytest.skip("published in one flavour")
        write_published_ocr(saved.folder, other, shards=3 if "sharded" in layout else 1)
    elif layout.startswith("paddle"):
        save_as_paddle(saved.folder, other, shards=3 if "sharded" in layout else 1)
    else:
        write_published_pt(saved.folder, other, shards=4 if "sharded" in layout else 1)
    for prompt in list(saved.prompts.values())[-2:]:
        ours = [all_logits(make_runner(folder), prompt.token_ids, prompt.media) for folder in (other, saved.folder)]
        assert np.array_equal(*ours)


def write_published_pt(source: Path, target: Path, shards: int) -> None:
    """As transformers saves it, but with a flat config.json and the tower's names as published."""
    target.mkdir()
    (target / "config.json").write_text(json.dumps(flat_config(json.loads((source / "config.json").read_text()))))
    tensors = {
        name.replace("model.vision_model.", "vision_model."): tensor for name, tensor in load_file(source / "model.safetensors").items()
    }
    save_shards(tensors, target, shards)


def write_published_ocr(source: Path, target: Path, shards: int) -> None:
    """Flat text keys beside vision_config, a head of its own although the configuration may tie it, and what nothing reads."""
    target.mkdir()
    config = json.loads((source / "config.json").read_text())
    text = config.pop("text_config")
    section = {"mrope_section": [16, 24, 24], "rope_type": "default", "type": "default"}
    text |= {"rope_theta": text.pop("rope_parameters")["rope_theta"], "rope_scaling": section, "rope_is_neox_style": True}
    (target / "config.json").write_text(json.dumps({**text, **config, "model_type": "paddleocr_vl"}))
    tensors = load_file(source / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    tensors["visual.vision_model.head.probe"] = torch.ones(2)
    tensors["visual.vision_model.embeddings.packing_position_embedding.weight"] = torch.ones(3, 2)
    save_shards(tensors, target, shards)


def test_ocr_uses_the_head_that_is_stored(tmp_path):
    """The configurations disagree about tying: transformers says tied, PaddleX untied; a stored head decides."""
    model = make_model("ocr", seed=1)
    model.save_pretrained(tmp_path / "tied")
    write_published_ocr(tmp_path / "tied", tmp_path / "untied", shards=1)
    tensors = load_file(tmp_path / "untied" / "model.safetensors")
    tensors["lm_head.weight"] *= 2
    save_file(tensors, tmp_path / "untied" / "model.safetensors")
    prompt = make_prompt(1, [3, (1, 2, 4), 3])
    tied, untied = (all_logits(make_runner(tmp_path / name), prompt.token_ids, prompt.media) for name in ("tied", "untied"))
    assert np.array_equal(untied, 2 * tied)


# positions -----------------------------------------------------------------------------------------------------------------------


def positions(config: ModelConfig, parts: list[int | tuple[int, int, int]]) -> tuple[list[tuple[int, ...]], int]:
    """Of a prompt's tokens without delimiters, and of the token after it."""
    prompt = make_prompt(0, parts)
    kept = [i for i, token in enumerate(prompt.token_ids) if token not in (501, 502, 503, 504)]
    media, shift = [], 0
    for item in prompt.media:
        shift += 1
        media.append(replace(item, start=item.start - shift))
        shift += 1
    found = SequenceMedia(media, [prompt.token_ids[i] for i in kept], config)
    return [tuple(column) for column in found.positions(0, len(kept) + 1).T.tolist()][:-1], len(kept) + found.shift


def test_positions_of_an_image(saved):
    config = ModelConfig.from_folder(saved.folder)
    found, following = positions(config, [2, (1, 4, 6), 1])
    assert found == [(0, 0, 0), (1, 1, 1), (2, 2, 2), (2, 2, 3), (2, 2, 4), (2, 3, 2), (2, 3, 3), (2, 3, 4), (5, 5, 5)]
    assert following == 6


@pytest.fixture(scope="module")
def vl(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parity") / "vl"
    model = make_model("vl", seed=5)
    model.save_pretrained(folder)
    return Saved("vl", model, folder)


def test_positions_of_a_video_follow_paddle(vl):
    """Behind a video that lasts longer than it is wide or high, transformers would go on at (3, 3, 3)."""
    found, following = positions(ModelConfig.from_folder(vl.folder), [1, (8, 4, 4), 1])
    assert found[0] == (0, 0, 0) and found[-1] == (5, 5, 5) and following == 6
    assert found[1:-1] == [(t, h, w) for t in range(1, 5) for h in (1, 2) for w in (1, 2)]


def test_logits_behind_a_long_video_follow_paddle(vl):
    """Equal to transformers at Paddle's positions, and not at its own."""
    prompt = make_prompt(9, [3, (8, 4, 4), 6])
    media = SequenceMedia(prompt.media, prompt.token_ids, ModelConfig.from_folder(vl.folder))
    ours = all_logits(make_runner(vl.folder), prompt.token_ids, prompt.media)
    at_paddles = their_logits(vl, prompt, position_ids=torch.from_numpy(media.prompt_positions.astype(np.int64))[:, None])
    at_their_own = their_logits(vl, prompt)
    assert np.abs(ours - at_paddles).max() <= TOLERANCE < np.abs(ours - at_their_own).max()


def test_delimiters_are_visual_and_generated_tokens_are_text(vl):
    prompt = make_prompt(2, [2, (1, 2, 4), 3, (2, 2, 2), 1])
    media = SequenceMedia(prompt.media, prompt.token_ids, ModelConfig.from_folder(vl.folder))
    expected = [token >= 500 for token in prompt.token_ids]
    assert media.visual(0, len(expected) + 2).tolist() == [*expected, False, False]
    assert media.visual(3, 5).tolist() == expected[3:5] and media.visual(len(expected) - 1, len(expected) + 1).tolist() == [False, False]


def test_a_text_prompt_is_computed_as_the_text_model_would(vl, tmp_path):
    """The text part alone, as a text model's checkpoint: the same logits to the last bit, and those of transformers' text class."""
    config = flat_config(json.loads((vl.folder / "config.json").read_text()))
    text = {key: value for key, value in config.items() if not key.endswith("_token_id") and key not in ("vision_config", "im_patch_id")}
    text |= {"architectures": ["Ernie4_5_MoeForCausalLM"], "model_type": "ernie4_5_moe", "moe_num_experts": 8, "moe_intermediate_size": 48}
    text |= {"moe_layer_start_index": 1, "moe_layer_end_index": 2, "eos_token_id": 2}
    del text["rope_3d"], text["freq_allocation"]
    tensors = {}
    for name, tensor in load_file(vl.folder / "model.safetensors").items():
        parts = name.split(".")
        if "vision_model" in name or "resampler_model" in name or name.endswith("weight_1"):
            continue
        if "experts" in parts and int(parts[5]) >= 8:
            continue
        if name.endswith("mlp.gate.weight"):
            tensor = tensor.T.contiguous()
        elif name.endswith("e_score_correction_bias"):
            tensor = tensor[:1].contiguous()
        tensors[name] = tensor
    (tmp_path / "config.json").write_text(json.dumps(text))
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    prompt = make_prompt(3, [40]).token_ids
    ours = all_logits(make_runner(tmp_path), prompt)
    assert np.array_equal(all_logits(make_runner(vl.folder), prompt), ours)
    peer = Ernie4_5_MoeForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert np.abs(ours - peer(torch.tensor([prompt])).logits[0].numpy()).max() <= TOLERANCE
    shutil.rmtree(tmp_path)


def test_what_an_image_shows_matters(saved):
    """Else the cases above would pass without eyes."""
    runner = make_runner(saved.folder)
    one, other = (make_prompt(seed, [5, (1, 4, 6), 7]) for seed in (1, 2))
    logits = [all_logits(runner, one.token_ids, media) for media in (one.media, other.media)]
    assert np.abs(logits[0][-1] - logits[1][-1]).max() > 1e-2
