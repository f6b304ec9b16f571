"""Models that see on a GPU at published widths: attention of the tower, and logits of prompts with images against transformers."""

from __future__ import annotations

import re
from functools import partial
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
from ernie_backend.execution.input_batch import build_input_batch, lay_out, upload
from ernie_backend.execution.model_runner import ModelRunner
from ernie_backend.execution.weights import load_model
from ernie_kernels import ops
from ernie_kernels.triton import vision_attention
from tests.execution.hand_scheduler import HandScheduler
from tests.gpu.attention_cases import DEVICE, poisoned, relative_error
from tests.gpu.test_engine import before_parting, check_logits, choices, chosen, same_experts
from tests.parity.vision_checkpoints import TOKEN_IDS, Prompt, make_prompt

__all__ = ["chosen"]

CASES: dict[str, dict[str, Any]] = {
    "vl": {
        "text_config": {"num_hidden_layers": 3, "max_position_embeddings": 16384},  # else as ERNIE-4.5-VL-28B-A3B
        "vision_config": {"depth": 4},
    },
    "ocr": {"text_config": {"num_hidden_layers": 3, "max_position_embeddings": 16384}, "vision_config": {"num_hidden_layers": 4}},
}


@pytest.mark.parametrize("plain", [False, True], ids=["chosen", "plain"])
@pytest.mark.parametrize(("frames", "patches", "head_dim"), [(1, 5476, 80), (6, 1564, 80), (1, 1000, 72), (2, 4, 80)])
def test_vision_attention(frames: int, patches: int, head_dim: int, plain: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if plain:  # what older GPUs run
        monkeypatch.setattr(vision_attention.hopper, "can_serve", lambda *sizes: False)
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
    """One model three times: transformers' class on the bfloat16 checkpoint, in float32 and in bfloat16, and ours."""

    def __init__(self, name: str, folder: Path) -> None:
        torch.manual_seed(0)
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
        self.peer, self.rounded_peer = (
            made.from_pretrained(folder, dtype=dtype, experts_implementation="eager").eval().to(DEVICE)
            for dtype in (torch.float32, torch.bfloat16)
        )
        self.config = ModelConfig.from_folder(folder)
        self.model = load_model(folder, self.config, progress=False)

    def runner(self) -> ModelRunner:
        engine = EngineConfig("random", max_model_len=8192, max_num_seqs=8, max_num_batched_tokens=4096).resolved(self.config)
        return ModelRunner(self.model, self.config, engine, num_blocks=256)

    def expected(self, prompt: Prompt, extra: tuple[int, ...] = (), peer: torch.nn.Module | None = None) -> torch.Tensor:
        peer = peer or self.peer
        given = {name: tensor.to(DEVICE) for name, tensor in prompt.theirs(list(extra)).items()}
        if self.name == "ocr":
            del given["moe_mm_token_type_ids"]
            given |= {name: pixels.reshape(-1, 3, 14, 14) for name, pixels in given.items() if name == "pixel_values"}
        given = {name: tensor.to(peer.dtype) if tensor.is_floating_point() else tensor for name, tensor in given.items()}
        peer.model.rope_deltas = None
        with torch.no_grad():
            return peer(**given).logits[0]

    def routed(self, prompt: Prompt, extra: tuple[int, ...] = ()) -> tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor]:
        """As `test_engine.World.routed`; then where each layer [layers, 1] leaves the choice open in bfloat16. There the peer itself moves
        its probabilities, by that share of the larger one at most, and two may move towards each other. (What is seen passes the tower
        before, so more is rounded than in a model of text alone.)"""
        experts, lead, exact = self._gates(self.peer, prompt, extra)
        others, _, rounded = self._gates(self.rounded_peer, prompt, extra)
        moved = ((exact - rounded).abs() / torch.maximum(exact, rounded)).amax(-1)
        moved[~before_parting((experts == others).all(-1))] = 0
        return (experts, lead), 2 * moved.amax(-1, keepdim=True)

    def _gates(self, peer: torch.nn.Module, prompt: Prompt, extra: tuple[int, ...]) -> list[torch.Tensor]:
        """`choices` of all layers; a layer has a gate for tokens of text, and one for those of what is seen."""
        visual = prompt.theirs(list(extra))["moe_mm_token_type_ids"][0].bool().to(DEVICE)
        layers: dict[str, tuple[torch.Tensor, ...]] = {}
        hooks = []
        for name, module in peer.named_modules():
            if found := re.search(r"(.*)\.mlp\.(text|vision)_moe\.gate$", name):
                layer = layers.setdefault(found[1], self._nothing(len(visual)))
                rows = visual if found[2] == "vision" else ~visual
                hooks.append(module.register_forward_hook(partial(self._note, layer, rows)))
        self.expected(prompt, extra, peer)
        for hook in hooks:
            hook.remove()
        found_in_all = [torch.stack(tensors) for tensors in zip(*layers.values(), strict=True)]
        assert bool((found_in_all[0] >= 0).all())
        return found_in_all

    def _nothing(self, count: int) -> tuple[torch.Tensor, ...]:
        experts = torch.full([count, self.config.experts_per_token], -1, device=DEVICE)
        lead, probabilities = (torch.full(shape, torch.nan, device=DEVICE) for shape in ([count], [count, self.config.num_experts]))
        return experts, lead, probabilities

    def _note(
        self, layer: tuple[torch.Tensor, ...], rows: torch.Tensor, gate: torch.nn.Module, given: object, output: tuple[torch.Tensor, ...]
    ) -> None:
        for target, values in zip(layer, choices(gate, output[0], self.config.experts_per_token), strict=True):
            target[rows] = values


@pytest.fixture(scope="module", params=list(CASES))
def world(request, tmp_path_factory) -> World:
    return World(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture
def chosen_by_kind(chosen: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """`chosen`, of layers that route what is seen apart too."""
    moe_by_modality = ops.moe_by_modality

    def note(x: torch.Tensor, rows: tuple[torch.Tensor, ...], routed: tuple[ops.RoutedExperts, ...], k: int, norm_min: float) -> object:
        experts = torch.full([len(x), k], -1, dtype=torch.int32, device=x.device)
        for where, group in zip(rows, routed, strict=True):
            if len(where):
                experts[where.long()] = ops.route(x[where.long()], group.gate, group.bias, k, norm_min)[1]
        chosen.append(experts)
        return moe_by_modality(x, rows, routed, k, norm_min)

    monkeypatch.setattr(ops, "moe_by_modality", note)
    return chosen


@pytest.mark.parametrize("parts", [[5, (1, 4, 6), 9], [7, (1, 38, 50), 3, (1, 16, 12), 30]], ids=["small", "large"])
def test_logits_of_a_prompt_with_images(world: World, chosen_by_kind: list[torch.Tensor], parts: list[int | tuple[int, int, int]]) -> None:
    runner, prompt = world.runner(), make_prompt(1, parts)
    hand = HandScheduler(runner, [prompt.token_ids], media=[prompt.media])
    output = hand.output({0: len(prompt.token_ids)})
    runner.execute(output)
    runner.states[0].token_ids.pop()
    assert runner.media is not None
    step = SchedulerOutput((), output.scheduled, ())
    batch = build_input_batch(step, runner.states, runner.block_size, runner.media.prepare(step, runner.states))
    chosen_by_kind.clear()
    ours = runner.model.logits(runner.model.forward(batch))
    same = None
    if chosen_by_kind:
        routed, undecided = world.routed(prompt)
        same = same_experts(routed, torch.stack(chosen_by_kind), undecided)
    check_logits(ours, world.expected(prompt), same)


@pytest.mark.parametrize("world", ["ocr"], indirect=True)
def test_a_graph_with_images_computes_what_launches_do(world: World) -> None:
    """Two prompts that decode, the rest of one whose image was cut, and one with two images, in one step; padded to 4 and 192."""
    prompts = [make_prompt(seed, parts) for seed, parts in enumerate([[20], [9], [5, (1, 20, 30), 9], [3, (1, 8, 8), 2, (1, 10, 6), 7]])]
    runner = world.runner()
    assert runner.graphs is not None and runner.media is not None
    hand = HandScheduler(runner, [p.token_ids for p in prompts], media=[p.media for p in prompts])
    hand.step({0: 99, 1: 99, 2: 40})
    step = hand.output({0: 1, 1: 1, 2: 500, 3: 500})
    for new in step.new_sequences:
        runner.states[new.sequence_id] = runner._state(new)
    media = runner.media.prepare(step, runner.states)
    assert media is not None and media.embeddings is not None
    layout = lay_out(step, runner.states, runner.block_size, by_media=True)
    graphs = runner.graphs.prompts
    bucket = graphs.bucket(layout)
    assert graphs.see and bucket == (4, 192)
    captured, replayed = (graphs.compute(layout, bucket, media).clone() for _ in range(2))
    batch = upload(layout, media)
    assert batch.logits_rows is not None
    expected = runner.model.forward(batch)[batch.logits_rows.long()]
    assert replayed.shape == (4, expected.shape[1]) and torch.equal(captured, replayed)
    assert float(torch.nn.functional.cosine_similarity(replayed.double(), expected.double(), dim=-1).min()) >= 0.99


def test_logits_of_decode_steps_behind_images(world: World, chosen_by_kind: list[torch.Tensor]) -> None:
    """Prefill in chunks that cut the images, then 12 greedy steps: positions go on where the images leave them."""
    prompts = [make_prompt(seed, parts) for seed, parts in enumerate([[5, (1, 20, 30), 9], [40], [3, (1, 8, 8), 2, (1, 10, 6), 7]])]
    runner = world.runner()
    graphs = runner.graphs
    assert graphs is not None
    graphs.decode = lambda bucket, *, truncated: graphs._decode(bucket, truncated)  # what a graph repeats, so that the experts can be seen
    hand = HandScheduler(runner, [p.token_ids for p in prompts], media=[p.media for p in prompts])
    hand.run(1, chunk=70)
    collected, routed = [], []
    for _ in range(12):
        chosen_by_kind.clear()
        hand.step({i: 1 for i in range(len(prompts))})
        collected.append(graphs.sampler.logits[: len(prompts)].clone())
        routed.append(torch.stack(chosen_by_kind)[:, : len(prompts)] if chosen_by_kind else None)
    row_of = {state.sequence_id: row for row, state in enumerate(graphs.rows.seat([runner.states[i] for i in range(3)]).states)}
    for i, prompt in enumerate(prompts):
        row, answer = row_of[i], tuple(hand.outputs(i)[:-1])
        ours = torch.stack([step[:, row] for step in routed if step is not None], dim=1) if chosen_by_kind else None
        same = None
        if ours is not None:
            experts_and_lead, undecided = world.routed(prompt, answer)
            same = same_experts(experts_and_lead, ours, undecided)
        check_logits(torch.stack([step[row] for step in collected]), world.expected(prompt, answer)[-12:], same)
