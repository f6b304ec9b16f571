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
from ernie_backend.execution.input_batch import build_input_batch, lay_out, upload
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
        """The peer's experts [layers, T, k], sorted, and the lead of the last chosen one's score over the next, as a share of the larger of
        their probabilities."""
        found: list[tuple[torch.Tensor, torch.Tensor]] = []

        def note(gate: torch.nn.Module, given: object, output: tuple[torch.Tensor, ...]) -> None:
            found.append(choices(gate, output[0], self.config.experts_per_token)[:2])

        hooks = [module.register_forward_hook(note) for name, module in self.peer.named_modules() if name.endswith("mlp.gate")]
        self.expected(token_ids)
        for hook in hooks:
            hook.remove()
        return torch.stack([experts for experts, _ in found]), torch.stack([lead for _, lead in found])


def choices(gate: torch.nn.Module, logits: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What a gate of the peer chose from its logits [T, experts], and how clearly, as `World.routed` says it of a layer; then all
    probabilities."""
    probabilities = torch.softmax(logits.float(), dim=-1)
    best = gate.moe_statics(probabilities).topk(k + 1)
    larger = probabilities.gather(-1, best.indices[..., -2:]).amax(-1)
    return best.indices[..., :-1].sort().values, (best.values[..., -2] - best.values[..., -1]) / larger, probabilities


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


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The experts [T, k] of each layer that was launched."""
    noted: list[torch.Tensor] = []
    moe_experts = ops.moe_experts

    def note(x: torch.Tensor, weights: torch.Tensor, ids: torch.Tensor, experts: ops.ExpertWeights) -> object:
        noted.append(ids.clone())
        return moe_experts(x, weights, ids, experts)

    monkeypatch.setattr(ops, "moe_experts", note)
    return noted


def before_parting(same: torch.Tensor) -> torch.Tensor:
    """[layers, tokens]: which tokens went to the same experts in every layer before."""
    return torch.cat([torch.ones_like(same[:1]), same.cumprod(0)[:-1].bool()])


def same_experts(
    routed: tuple[torch.Tensor, torch.Tensor], ours: torch.Tensor, undecided: float | torch.Tensor = 8 * 2**-8
) -> torch.Tensor:
    """Which of the last tokens went to the peer's experts (`World.routed`) in every layer; `ours` [layers, tokens, k]. The others must be
    few, and the peer itself undecided where they part: its lead below `undecided` (of each layer), by default eight steps of bfloat16 (2⁻⁸
    each), in which everything before the router is rounded."""
    expected, lead = (x[:, -ours.shape[1] :] for x in routed)
    same = (ours.long().sort().values == expected).all(-1)
    parting = ~same & before_parting(same)
    share = float((~same.all(0)).float().mean())
    leads = [f"{max([0.0, *layer[where].tolist()]):.4f}" for layer, where in zip(lead, parting, strict=True)]
    print(f"{share:.4f} of {same.shape[1]} tokens part from the peer's experts, where its lead is at most {leads}, undecided {undecided}")
    assert not bool((parting & (lead >= undecided)).any()) and share < 0.5
    return same.all(0)


@pytest.mark.parametrize("length", [5, 300, 700])
def test_logits_of_a_prompt(world: World, chosen: list[torch.Tensor], length: int) -> None:
    runner = world.runner()
    (prompt,) = prompts(length)
    hand = HandScheduler(runner, [prompt])
    output = hand.output({0: length})
    runner.execute(output)
    runner.states[0].token_ids.pop()
    batch = build_input_batch(output, runner.states, runner.block_size)
    chosen.clear()
    ours = runner.model.logits(runner.model.forward(batch))
    check_logits(ours, world.expected(prompt), same_experts(world.routed(prompt), torch.stack(chosen)) if chosen else None)


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_logits_of_decode_steps(world: World, chosen: list[torch.Tensor], batch: int) -> None:
    """Prefill in chunks, then 12 greedy steps, all rows at once: logits of each step against the whole sequence at once."""
    runner = world.runner()
    graphs = runner.graphs
    graphs.decode = lambda bucket, *, truncated: graphs._decode(bucket, truncated)  # what a graph repeats, so that the experts can be seen
    hand = HandScheduler(runner, prompts(*(40 + 61 * i for i in range(batch))))
    hand.run(1, chunk=256)
    collected, routed = [], []
    for _ in range(12):
        chosen.clear()
        hand.step({i: 1 for i in range(batch)})
        collected.append(graphs.sampler.logits[:batch].clone())
        routed.append(torch.stack(chosen)[:, :batch] if chosen else None)
    row_of = {state.sequence_id: row for row, state in enumerate(graphs.rows.seat([runner.states[i] for i in range(batch)]).states)}
    for i in range(batch):
        row, tokens = row_of[i], hand.tokens[i][:-1]
        same = same_experts(world.routed(tokens), torch.stack([step[:, row] for step in routed], dim=1)) if chosen else None
        check_logits(torch.stack([step[row] for step in collected]), world.expected(tokens)[-12:], same)


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


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_prompt_graph_computes_what_launches_do(world: World, deterministic: bool) -> None:
    """Three sequences that decode and two prompts in one step, one of them in its middle; padded to 4 and 384."""
    runner = world.runner(deterministic=deterministic)
    hand = HandScheduler(runner, prompts(17, 64, 65, 200, 301))
    hand.step({0: 99, 1: 99, 2: 99})
    hand.step({3: 50, 4: 100})
    step = hand.output({0: 1, 1: 1, 2: 1, 3: 100, 4: 201})
    layout = lay_out(step, runner.states, runner.block_size)
    graphs = runner.graphs.prompts
    bucket = graphs.bucket(layout)
    assert bucket == (4, 384)
    captured, replayed = (graphs.compute(layout, bucket).clone() for _ in range(2))
    batch = upload(layout)
    expected = runner.model.forward(batch)[batch.logits_rows.long()]
    assert replayed.shape == (4, expected.shape[1]) and torch.equal(captured, replayed)
    cosine = torch.nn.functional.cosine_similarity(replayed.double(), expected.double(), dim=-1)
    print(f"cosine {cosine.tolist()}")
    assert torch.equal(replayed, expected) if deterministic else float(cosine.min()) >= 0.99


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
