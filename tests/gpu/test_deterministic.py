"""`deterministic` on the GPU: rows that do not depend on how many there are, to the bit, and the four equalities, token for token."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

os.environ.setdefault("ERNIE_TENSOR_FRAMEWORK", "torch")

import pytest
import torch

from ernie_backend.config import EngineConfig
from ernie_backend.core.engine_core import EngineCore
from ernie_backend.core.scheduler import Scheduler
from ernie_backend.execution.model_runner import ModelRunner
from ernie_backend.protocol import GenerateRequest, SamplingParams
from ernie_kernels import ops
from tests.engine.test_equalities import arrivals, requests, run
from tests.gpu.test_engine import CASES, VOCAB, World

COUNTS = (1, 2, 7, 8, 9, 16, 33, 64, 100, 256, 300, 512, 513, 1100)


@pytest.fixture(autouse=True)
def _batch_invariant() -> Iterator[None]:
    ops.set_batch_invariant(True)
    yield
    ops.set_batch_invariant(False)


def _random(*shape: int, scale: float = 1.0) -> torch.Tensor:
    return torch.empty(shape, dtype=torch.bfloat16, device="cuda").normal_(0, scale)


@pytest.mark.parametrize("n, k", [(3584, 2560), (2560, 2560), (2560, 12288), (1024, 3072), (1024, 2048), (6144, 1024)])
def test_linears(n: int, k: int) -> None:
    x, w = _random(max(COUNTS), k), ops.LinearWeight(_random(n, k, scale=0.02))
    for operator in (ops.linear, ops.lm_head, ops.linear_swiglu):
        whole = operator(x, w)
        for count in COUNTS:
            assert torch.equal(operator(x[:count], w), whole[:count]), (operator.__name__, count)


def test_routers_and_experts() -> None:
    hidden, width, num_experts, k = 2560, 1536, 64, 6
    most = max(COUNTS)
    x, residual, norm_weight = _random(most, hidden), _random(most, hidden), _random(hidden)
    gate = torch.randn(num_experts, hidden, device="cuda") * 0.02
    shared = (ops.LinearWeight(_random(4 * width, hidden, scale=0.02)), ops.LinearWeight(_random(hidden, 2 * width, scale=0.02)))
    routed = ops.ExpertWeights(_random(num_experts, 2 * width, hidden, scale=0.02), _random(num_experts, hidden, width, scale=0.02))
    experts = ops.join_shared_experts(routed, *shared)

    def layer(count: int) -> tuple[torch.Tensor, ...]:
        router = (gate, None, k, 1e-12, experts)
        normed, total, weights, ids = ops.add_rms_norm_route(x[:count], residual[:count].clone(), norm_weight, 1e-5, *router)
        return weights, ids, *ops.add_rms_norm(ops.moe_experts(normed, weights, ids, experts), total, norm_weight, 1e-5)

    whole = layer(most)
    for count in COUNTS:
        for found, expected in zip(layer(count), whole, strict=True):
            assert torch.equal(found, expected[:count]), count


@pytest.fixture(scope="module", params=list(CASES))
def world(request: pytest.FixtureRequest) -> World:
    return World(request.param)


def core(world: World, num_blocks: int = 256, **changes: object) -> EngineCore:
    settings: dict[str, object] = {
        "max_model_len": 512,
        "max_num_seqs": 8,
        "max_num_batched_tokens": 1024,
        "deterministic": True,
        **changes,
    }
    engine = EngineConfig("random", **settings).resolved(world.config)  # type: ignore[arg-type]
    return EngineCore(Scheduler(engine, num_blocks), ModelRunner(world.model, world.config, engine, num_blocks))


@pytest.fixture(scope="module")
def expected(world: World) -> tuple[list[GenerateRequest], dict[tuple[str, int], list[int]]]:
    jobs = requests(random.Random(7), VOCAB, 14)
    engine = core(world, enable_prefix_caching=False)
    alone: dict[tuple[str, int], list[int]] = {}
    for job in jobs:  # one after the other
        alone |= run(engine, [(0, job)])
    return jobs, alone


@pytest.mark.parametrize(
    "changes",
    [
        {"enable_prefix_caching": False},
        {"enable_prefix_caching": False, "max_num_batched_tokens": 13},
        {"enable_prefix_caching": False, "max_num_batched_tokens": 64},
        {"enable_prefix_caching": True},
        {"num_blocks": 9, "max_num_batched_tokens": 48},
    ],
    ids=["batched", "chunks of 13", "chunks of 64", "prefix hits", "preempted"],
)
def test_the_four_equalities(world: World, expected, changes: dict[str, object]) -> None:  # type: ignore[no-untyped-def]
    jobs, answers = expected
    engine = core(world, **changes)  # type: ignore[arg-type]
    assert run(engine, arrivals(jobs, 1)) == answers
    if "num_blocks" in changes:
        assert engine.stats().preemptions_total > 0


def test_a_long_prompt_in_chunks_that_choose_nothing(world: World) -> None:
    """Sixteen steps follow each other without an answer that the host would wait for: none may overwrite what another still reads."""
    prompt = tuple(random.Random(3).randrange(VOCAB) for _ in range(4000))
    job = GenerateRequest("long", prompt, SamplingParams(max_tokens=8, temperature=0.0))
    settings = {"max_model_len": 4096, "enable_prefix_caching": False}
    whole, chunked = (run(core(world, max_num_batched_tokens=tokens, **settings), [(0, job)]) for tokens in (4096, 256))
    assert whole == chunked
