"""Models that see on a GPU at published widths: attention of the tower, and logits of prompts with images against transformers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    Ernie4_5_VLMoeConfig,
    Ernie4_5_VLMoeForConditionalGeneration,
    PaddleOCRVLConfig,
    PaddleOCRVLForConditionalGeneration,
)

from ernie_backend.config import EngineConfig, ModelConfig
from ernie_backend.core.outputs import SchedulerOutput
from ernie_backend.execution.input_batch import build_input_batch
from ernie_backend.execution.model_runner import ModelRunner
from ernie_backend.execution.weights import load_model
from ernie_kernels.triton import vision_attention
from tests.execution.hand_scheduler import HandScheduler
from tests.gpu.attention_cases import DEVICE, poisoned, relative_error
from tests.gpu.test_engine import check_logits
from tests.parity.vision_checkpoints import TOKEN_IDS, Prompt, make_prompt

CASES: dict[str, dict[str, Any]] = {
    "vl": {
        "text_config": {"num_hidden_layers": 3, "max_position_embeddings": 16384},  # else as ERNIE-4.5-VL-28B-A3B
        "vision_config": {"depth": 4},
    },
    "ocr": {"text_config": {"num_hidden_layers": 3, "max_position_embeddings": 16384}, "vision_config": {"num_hidden_layers": 4}},
}


@pytest.mark.parametrize(("frames", "patches", "head_dim"), [(1, 5476, 80), (6, 1564, 80), (1, 1000, 72), (2, 4, 80)])
def test_vision_attention(frames: int, patches: int, head_dim: int) -> None:
    heads, half = 16, head_dim // 2
    qkv = torch.randn(frames * patches, 3 * heads * head_dim, device=DEVICE).bfloat16()
    angles = torch.rand(patches, half, device=DEVICE) * 6
    q, k, v = qkv.clone().float().view(frames, patches, 3, heads, head_dim).permute(2, 0, 3, 1, 4)
    cos, sin = angles.cos(), angles.sin()
    q, k = (torch.cat([x[..., :half] * cos - x[..., half:] * sin, x[..., half:] * cos + x[..., :half] * sin], dim=-1) for x in (q, k))
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(frames * patches, -1)
    out = poisoned(frames * patches, heads * head_dim)
    vision_attention.vision_attention(qkv, torch.cat([cos, sin], dim=1), head_dim**-0.5, out)
    assert relative_error(out, expected) < 1e-2


class World:
    """One model twice: transformers' class in float32 on the bfloat16 checkpoint, and ours."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        made, config = (PaddleOCRVLForConditionalGeneration, PaddleOCRVLConfig)
        if name == "vl":
            made, config = (Ernie4_5_VLMoeForConditionalGeneration, Ernie4_5_VLMoeConfig)
        with torch.device(DEVICE):
            model = made(config(**CASES[name], **TOKEN_IDS[name])).eval()
        with torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                parameter.normal_(0, 0.02)
                if re.search(r"(norm\d?|\.ln|layer_norm\d)\.weight$", parameter_name):
                    parameter.add_(1)
        model.bfloat16().save_pretrained(folder)
        del model
        self.peer = made.from_pretrained(folder, dtype=torch.float32, experts_implementation="eager").eval().to(DEVICE)
        self.config = ModelConfig.from_folder(folder)
        self.model = load_model(folder, self.config, progress=False)

    def runner(self) -> ModelRunner:
        engine = EngineConfig("random", max_model_len=8192, max_num_seqs=8, max_num_batched_tokens=4096).resolved(self.config)
        return ModelRunner(self.model, self.config, engine, num_blocks=256)

    def expected(self, prompt: Prompt, extra: list[int] | None = None) -> torch.Tensor:
        given = {name: tensor.to(DEVICE) for name, tensor in prompt.theirs(extra or []).items()}
        if self.name == "ocr":
            del given["moe_mm_token_type_ids"]
            given |= {name: pixels.reshape(-1, 3, 14, 14) for name, pixels in given.items() if name == "pixel_values"}
        self.peer.model.rope_deltas = None
        with torch.no_grad():
            return self.peer(**given).logits[0]


@pytest.fixture(scope="module", params=list(CASES))
def world(request, tmp_path_factory) -> World:
    return World(request.param, tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize("parts", [[5, (1, 4, 6), 9], [7, (1, 38, 50), 3, (1, 16, 12), 30]], ids=["small", "large"])
def test_logits_of_a_prompt_with_images(world: World, parts: list[int | tuple[int, int, int]]) -> None:
    runner, prompt = world.runner(), make_prompt(1, parts)
    hand = HandScheduler(runner, [prompt.token_ids], media=[prompt.media])
    output = hand.output({0: len(prompt.token_ids)})
    runner.execute(output)
    runner.states[0].token_ids.pop()
    assert runner.media is not None
    step = SchedulerOutput((), output.scheduled, ())
    batch = build_input_batch(step, runner.states, runner.block_size, runner.media.prepare(step, runner.states))
    check_logits(runner.model.logits(runner.model.forward(batch, runner.caches, runner.cos_sin)), world.expected(prompt))


def test_logits_of_decode_steps_behind_images(world: World) -> None:
    """Prefill in chunks that cut the images, then 12 greedy steps as graphs: positions go on where the images leave them."""
    prompts = [make_prompt(seed, parts) for seed, parts in enumerate([[5, (1, 20, 30), 9], [40], [3, (1, 8, 8), 2, (1, 10, 6), 7]])]
    runner = world.runner()
    hand = HandScheduler(runner, [p.token_ids for p in prompts], media=[p.media for p in prompts])
    hand.run(1, chunk=70)
    collected = []
    for _ in range(12):
        hand.step({i: 1 for i in range(len(prompts))})
        assert runner.graphs is not None
        collected.append(runner.graphs.sampler.logits[: len(prompts)].clone())
    for i, prompt in enumerate(prompts):
        expected = world.expected(prompt, hand.outputs(i)[:-1])[-12:]
        check_logits(torch.stack([step[i] for step in collected]), expected)
