"""The engine on the GPU at served widths and reduced depth: against transformers in float32, graphs against launches, equalities."""

from __future__ import annotations

import dataclasses
import os

os.environ.setdefault("ERNIE_TENSOR_FRAMEWORK", "torch")

import numpy as np
import pytest
import torch
from transformers import Ernie4_5_MoeConfig, Ernie4_5_MoeForCausalLM, Ernie4_5Config, Ernie4_5ForCausalLM

from ernie_backend.config import EngineConfig, ModelConfig
from ernie_backend.execution.input_batch import build_input_batch
from ernie_backend.execution.model_runner import ModelRunner
from ernie_backend.execution.models.ernie45 import Ernie45ForCausalLM
from ernie_backend.execution.sampler import sampling_inputs
from ernie_backend.execution.weight_map import Kind, detect_naming, sources, weights
from ernie_backend.protocol import SamplingParams
from ernie_kernels import ops, xp
from ernie_kernels.reference import sampling as reference_sampling
from tests.execution.hand_scheduler import GREEDY, HandScheduler

VOCAB = 103424
_COMMON = {"vocab_size": VOCAB, "head_dim": 128, "max_position_embeddings": 16384, "tie_word_embeddings": True}
CASES = {
    "0.3B": {"num_hidden_layers": 4, "hidden_size": 1024, "intermediate_size": 3072, "num_attention_heads": 16, "num_key_value_heads": 2},
    "21B": {
        **{"num_hidden_layers": 3, "hidden_size": 2560, "intermediate_size": 12288, "num_attention_heads": 20, "num_key_value_heads": 4},
        **{"moe_num_experts": 64, "moe_k": 6, "moe_intermediate_size": 1536, "moe_num_shared_experts": 2, "moe_layer_start_index": 1},
        "moe_layer_end_index": -1,
    },
}


class World:
    """One model twice: transformers' class in float32 with weights that bfloat16 holds exactly, and ours."""

    def __init__(self, name: str) -> None:
        torch.manual_seed(0)
        moe = "moe_k" in CASES[name]
        hf_config = (Ernie4_5_MoeConfig if moe else Ernie4_5Config)(**_COMMON, **CASES[name])
        hf_config._experts_implementation = "eager"  # the only one for float32
        with torch.device("cuda"):
            self.peer = (Ernie4_5_MoeForCausalLM if moe else Ernie4_5ForCausalLM)(hf_config).eval()
        with torch.no_grad():
            for name_, parameter in self.peer.named_parameters():
                parameter.normal_(0, 0.02)
                if "norm" in name_:
                    parameter.add_(1)
                parameter.copy_(parameter.bfloat16())
        self.config = ModelConfig.from_json({**hf_config.to_dict(), "architectures": [type(self.peer).__name__]})
        self.model = Ernie45ForCausalLM(self.config, _take(self.peer, self.config))

    def runner(self, **settings: object) -> ModelRunner:
        given = {"max_model_len": 16384, "max_num_seqs": 16, "max_num_batched_tokens": 2048, **settings}
        engine = EngineConfig("random", **given).resolved(self.config)  # type: ignore[arg-type]
        return ModelRunner(self.model, self.config, engine, num_blocks=256)

    def expected(self, token_ids: list[int]) -> torch.Tensor:
        with torch.no_grad():
            return self.peer(torch.tensor([token_ids], device="cuda")).logits[0]

    def routed(self, token_ids: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """The peer's experts [layers, T, k], sorted, and by how much the last chosen one leads the next, as a share of its probability."""
        seen: list[torch.Tensor] = []
        gates = [module for name, module in self.peer.named_modules() if name.endswith("mlp.gate")]
        hooks = [
            gate.register_forward_pre_hook(
                lambda gate, given: seen.append(torch.softmax(given[0].reshape(-1, given[0].shape[-1]).float() @ gate.weight.float().T, -1))
            )
            for gate in gates
        ]
        self.expected(token_ids)
        for hook in hooks:
            hook.remove()
        best = torch.stack(seen).topk(CASES["21B"]["moe_k"] + 1)  # no correction bias: chosen by probability
        lead = (best.values[..., -2] - best.values[..., -1]) / best.values[..., -2]
        return best.indices[..., :-1].sort().values, lead


def _take(peer: torch.nn.Module, config: ModelConfig):
    state = peer.state_dict()
    naming = detect_naming(state)
    filled = {}
    for weight in weights(config):
        if weight.kind is Kind.EXPERTS:
            count, width, hidden = weight.shape
            filled[weight.name] = {"gate_up": torch.empty(count, 2 * width, hidden), "down": torch.empty(count, hidden, width)}
        else:
            filled[weight.name] = torch.empty(weight.shape)
    for source in sources(config, naming):
        target = filled[source.weight]
        target = target[source.part] if source.part else target
        target = target if source.expert is None else target[source.expert]
        target = target if source.rows is None else target[slice(*source.rows)]
        target.copy_(state[source.tensor].reshape(target.shape))
    kinds = {weight.name: weight.kind for weight in weights(config)}

    def take(name: str) -> object:
        kind, value = kinds[name], filled.pop(name)
        if kind is Kind.EXPERTS:
            return ops.pack_experts(value["gate_up"].numpy(), value["down"].numpy())
        if kind is Kind.FLOAT32:
            return xp.from_numpy(value.numpy())
        return (ops.pack_linear if kind is Kind.LINEAR else ops.pack_embedding)(value.numpy())

    return take


@pytest.fixture(scope="module", params=list(CASES))
def world(request) -> World:
    return World(request.param)


def prompts(*lengths: int) -> list[list[int]]:
    return [np.random.default_rng(length).integers(3, VOCAB, length).tolist() for length in lengths]


def check_logits(ours: torch.Tensor, expected: torch.Tensor, same_experts: torch.Tensor | None = None) -> None:
    """Cosine ≥ 0.999 at every token (that both sides sent to the same experts), and the same first choice wherever the margin exceeds what
    bfloat16 leaves open."""
    if same_experts is not None:
        ours, expected = ours[same_experts], expected[same_experts]
    cosine = torch.nn.functional.cosine_similarity(ours.double(), expected.double(), dim=-1)
    noise = (ours - expected).abs().mean(dim=-1)
    top = expected.topk(2).values
    clear = top[:, 0] - top[:, 1] > 4 * noise
    agree = (ours.argmax(-1) == expected.argmax(-1))[clear].float().mean()
    closeness = f"cosine {float(cosine.mean()):.6f}, least {float(cosine.min()):.6f}, noise {float(noise.max()):.4f}"
    print(f"{closeness}, clear {int(clear.sum())}/{len(clear)}, agree {float(agree):.4f}")
    assert float(cosine.min()) >= 0.999 and float(agree) >= 0.99


@pytest.mark.parametrize("length", [5, 300, 700])
def test_logits_of_a_prompt(world: World, length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = world.runner()
    (prompt,) = prompts(length)
    hand = HandScheduler(runner, [prompt])
    output = hand.output({0: length})
    runner.execute(output)
    runner.states[0].token_ids.pop()
    batch = build_input_batch(output, runner.states, runner.block_size)
    chosen: list[torch.Tensor] = []
    moe_experts = ops.moe_experts
    monkeypatch.setattr(
        ops, "moe_experts", lambda x, weights, ids, experts: chosen.append(ids.clone()) or moe_experts(x, weights, ids, experts)
    )
    ours = runner.model.logits(runner.model.forward(batch, runner.caches, runner.cos_sin))
    check_logits(ours, world.expected(prompt), same_experts(world, prompt, chosen))


def same_experts(world: World, prompt: list[int], chosen: list[torch.Tensor]) -> torch.Tensor | None:
    """Which tokens went to the peer's experts in every layer. The others must be few, and the peer itself undecided where they part."""
    if not chosen:
        return None
    expected, lead = world.routed(prompt)
    same = (torch.stack(chosen).long().sort().values == expected).all(-1)  # [layers, T]
    alike_before = torch.cat([torch.ones_like(same[:1]), same.cumprod(0)[:-1].bool()])
    parting = lead[~same & alike_before]
    print(
        f"{int((~same.all(0)).sum())} of {same.shape[1]} tokens part from the peer's experts, where its lead is at most {parting.max() if len(parting) else 0:.4f}"
    )
    assert bool((parting < 0.05).all()) and float((~same.all(0)).float().mean()) < 0.15
    return same.all(0)


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_logits_of_decode_steps(world: World, batch: int) -> None:
    """Prefill in chunks, then 12 greedy steps, all rows at once: logits of each step against the whole sequence at once."""
    runner = world.runner()
    hand = HandScheduler(runner, prompts(*(40 + 61 * i for i in range(batch))))
    hand.run(1, chunk=256)
    collected = []
    for _ in range(12):
        hand.step({i: 1 for i in range(batch)})
        collected.append(runner.graphs.sampler.logits[:batch].clone())
    for i in range(batch):
        expected = world.expected(hand.tokens[i][:-1])[-12:]
        check_logits(torch.stack([step[i] for step in collected]), expected)


def test_a_graph_repeats_what_launches_do(world: World) -> None:
    runner = world.runner()
    hand = HandScheduler(runner, prompts(17, 64, 65, 200, 301))
    hand.run(3)
    graphs = runner.graphs
    for truncated in (False, True):
        for _ in range(2):  # the first may be the one that is captured
            graphs.decode(8, truncated=truncated)
        logits, sampled = graphs.sampler.logits[:5].clone(), graphs.sampler.sampled[:5].clone()
        graphs.sampler.logits.fill_(float("nan"))
        graphs._decode(8, truncated)
        assert torch.equal(graphs.sampler.logits[:5], logits) and torch.equal(graphs.sampler.sampled[:5], sampled)


def test_sampling_is_the_references(world: World) -> None:
    base = SamplingParams(max_tokens=64, temperature=0.9)
    ban = tuple((i,) for i in range(0, VOCAB, 300))
    params = [
        GREEDY,
        base,
        dataclasses.replace(base, top_k=20),
        dataclasses.replace(base, top_p=0.8, min_p=0.01),
        dataclasses.replace(base, repetition_penalty=1.3, frequency_penalty=0.4, presence_penalty=0.3, top_p=0.9),
        dataclasses.replace(GREEDY, logprobs=5, logit_bias=((77, 100.0),)),
        dataclasses.replace(base, bad_words_token_ids=ban, logprobs=0),
        dataclasses.replace(GREEDY, min_tokens=8, eos_token_ids=(2,), logit_bias=((2, 100.0), (5, 50.0))),
    ]
    runner = world.runner()
    hand = HandScheduler(runner, prompts(*range(20, 28)), params, list(range(8)))
    wrong = total = 0
    for _ in range(10):
        before = None if not runner.states else sampling_inputs([runner.states[i] for i in range(8)])
        hand.step(dict.fromkeys(range(8), 99))
        if before is None:
            continue
        expected = reference_sampling.sample(runner.graphs.sampler.logits[:8].cpu().numpy(), before)
        ours = [hand.tokens[i][-1] for i in range(8)]
        wrong += sum(a != b for a, b in zip(ours, expected.token_ids.tolist(), strict=True))
        total += 8
        assert all((hand.logprobs[i][-1] is None) == (expected.logprobs[i] is None) for i in range(8))
        assert hand.logprobs[5][-1].top_token_ids == expected.logprobs[5][1]
        assert hand.logprobs[5][-1].logprob == pytest.approx(expected.logprobs[5][0], abs=1e-3)
    assert not hand.failed and wrong <= 0.02 * total  # a draw at the very edge of a float32 sum may fall on its other side
    assert hand.outputs(5) == [77] * 10 and hand.outputs(7)[:8] == [5] * 8 and hand.outputs(7)[8:] == [2, 2]


def test_batched_and_chunked_equal_alone_but_for_near_ties(world: World) -> None:
    given = prompts(30, 100, 333, 700)
    alone = [HandScheduler(world.runner(), [prompt]).run(24)[0] for prompt in given]
    runner = world.runner()
    together = HandScheduler(runner, given).run(24)
    chunked = HandScheduler(world.runner(), given).run(24, chunk=128)
    for answers in (together, chunked):
        for prompt, expected, found in zip(given, alone, answers, strict=True):
            first = next((k for k in range(24) if expected[k] != found[k]), None)
            if first is None:
                continue
            logits = world.expected([*prompt, *expected[:first]])[-1]
            margin = abs(float(logits[expected[first]] - logits[found[first]]))
            print(f"prompt of {len(prompt)}: differs at {first}, margin {margin:.4f}, spread {float(logits.std()):.3f}")
            assert margin < 0.1 * float(logits.std())
