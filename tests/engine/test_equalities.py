"""The four equalities on a real model and the real scheduler: batched = alone, chunked = whole, prefix hit = cold, preempted = undisturbed.

Token-identical, greedy and seeded sampling, on random schedules: requests of random lengths arrive while others run. Models that see get
text, images and videos mixed, some with the same words about other pixels.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from ernie_backend.config import EngineConfig, ModelConfig
from ernie_backend.core.engine_core import EngineCore
from ernie_backend.core.outputs import StepOutput
from ernie_backend.core.scheduler import Scheduler
from ernie_backend.execution.model_runner import ModelRunner
from ernie_backend.execution.models import LanguageModel
from ernie_backend.execution.weights import load_model
from ernie_backend.protocol import FinishReason, GenerateRequest, SamplingParams
from tests.parity import vision_checkpoints
from tests.parity.transformers_checkpoints import CASES, make_model

BLOCK_SIZE = 16


@dataclass
class World:
    """One loaded model and the answers of lone runs, which everything else must repeat."""

    folder: Path
    config: ModelConfig
    model: LanguageModel

    def core(self, num_blocks: int = 128, **changes: object) -> EngineCore:
        settings: dict[str, object] = {
            "max_model_len": 192,
            "max_num_seqs": 8,
            "block_size_tokens": BLOCK_SIZE,
            "max_num_batched_tokens": 192,
        }
        engine = EngineConfig(str(self.folder), **{**settings, **changes}).resolved(self.config)  # type: ignore[arg-type]
        return EngineCore(Scheduler(engine, num_blocks), ModelRunner(self.model, self.config, engine, num_blocks))

    def alone(self, request: GenerateRequest) -> list[list[int]]:
        """A cold, undisturbed run, whole prompt in one step."""
        answers = run(self.core(enable_prefix_caching=False), [(0, request)])
        return [answers[request.key, index] for index in range(request.n)]


def run(core: EngineCore, arrivals: list[tuple[int, GenerateRequest]]) -> dict[tuple[str, int], list[int]]:
    """Feed requests at their steps and step until all have ended; everything is given back at the end."""
    tokens: dict[tuple[str, int], list[int]] = {}
    waiting = sorted(arrivals, key=lambda arrival: arrival[0])
    step = 0
    while waiting or core.has_work:
        while waiting and waiting[0][0] <= step:
            core.add(waiting.pop(0)[1])
        collect(core.step(), tokens)
        core.scheduler.check_invariants()
        step += 1
    runner = core.runner
    assert isinstance(runner, ModelRunner) and core.stats().num_blocks_used == 0 and not runner.states
    if runner.media is not None:
        runner.media.cache.check_invariants()
        assert runner.media.cache.num_bytes <= runner.media.cache.capacity_bytes, "nobody holds anything any more"
    return tokens


def collect(output: StepOutput, tokens: dict[tuple[str, int], list[int]]) -> None:
    for event in output.events:
        assert event.finish_reason is not FinishReason.ERROR
        tokens.setdefault((event.key, event.index), []).extend(event.token_ids)


def requests(rng: random.Random, vocab_size: int, count: int) -> list[GenerateRequest]:
    """Greedy and sampled, some with a common beginning, some with several choices."""
    stem = [rng.randrange(vocab_size) for _ in range(70)]
    made = []
    for i in range(count):
        prompt = stem[: rng.choice([0, 0, 33, 64, 70])] + [rng.randrange(vocab_size) for _ in range(rng.randrange(1, 60))]
        sampling = SamplingParams(max_tokens=rng.randrange(4, 24), temperature=0.0)
        if i % 2:
            sampling = replace(sampling, temperature=0.9, top_p=0.9, top_k=50, repetition_penalty=1.1, seed=i)
        made.append(GenerateRequest(f"r{i}", tuple(prompt), sampling, n=3 if i % 5 == 1 else 1))
    return made


STEMS: list[list[int | tuple[int, int, int]]] = [[20, (1, 4, 6), 30], [7, (1, 8, 8), 3, (1, 6, 4), 2], [41], [(1, 10, 10), 5, (1, 2, 2), 9]]
FILMS: list[list[int | tuple[int, int, int]]] = [[4, (4, 8, 8), 6, (1, 4, 4), 3], [3, (8, 4, 4), 20]]


def requests_with_media(rng: random.Random, videos: bool, count: int) -> list[GenerateRequest]:
    """As `requests`; the common beginnings hold images."""
    made = []
    stems = STEMS + FILMS if videos else STEMS
    for i in range(count):
        seed = i % len(stems)
        prompt = vision_checkpoints.make_prompt(seed, [*stems[seed], rng.randrange(1, 20)])
        media = prompt.media
        if i % 4 == 3 and media:  # the same words about other pixels
            other = vision_checkpoints.make_item(np.random.default_rng(100 + i), media[0].grid, media[0].kind, media[0].start)
            media = (other, *media[1:])
        sampling = SamplingParams(max_tokens=rng.randrange(4, 24), temperature=0.0)
        if i % 2:
            sampling = replace(sampling, temperature=0.9, top_p=0.9, top_k=50, repetition_penalty=1.1, seed=i)
        made.append(GenerateRequest(f"r{i}", tuple(prompt.token_ids), sampling, n=3 if i % 5 == 1 else 1, media=media))
    return made


@pytest.fixture(scope="module", params=["dense-tied-gqa2", "moe-shared-1-dense", "vl", "ocr"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp(request.param)
    sees = request.param in vision_checkpoints.CASES
    (vision_checkpoints.make_model(request.param) if sees else make_model(CASES[request.param], seed=3)).save_pretrained(folder)
    config = ModelConfig.from_folder(folder)
    return World(folder, config, load_model(folder, config, progress=False))


@pytest.fixture(scope="module")
def expected(world: World) -> tuple[list[GenerateRequest], dict[tuple[str, int], list[int]]]:
    if world.config.vision is None:
        jobs = requests(random.Random(7), world.config.vocab_size, 14)
    else:
        jobs = requests_with_media(random.Random(7), world.config.architecture == "vl", 14)
    answers = {(job.key, index): ids for job in jobs for index, ids in enumerate(world.alone(job))}
    assert all(len(ids) for ids in answers.values())
    return jobs, answers


def arrivals(jobs: list[GenerateRequest], seed: int) -> list[tuple[int, GenerateRequest]]:
    rng = random.Random(seed)
    return [(rng.randrange(30), job) for job in jobs]


@pytest.mark.parametrize("seed", range(3))
def test_batched_equals_alone(world: World, expected, seed: int) -> None:  # type: ignore[no-untyped-def]
    jobs, answers = expected
    assert run(world.core(enable_prefix_caching=False), arrivals(jobs, seed)) == answers


@pytest.mark.parametrize("budget", [8, 13, 64])
def test_chunked_equals_whole(world: World, expected, budget: int) -> None:  # type: ignore[no-untyped-def]
    jobs, answers = expected
    assert run(world.core(enable_prefix_caching=False, max_num_batched_tokens=budget), arrivals(jobs, budget)) == answers


def test_prefix_hit_equals_cold(world: World, expected) -> None:  # type: ignore[no-untyped-def]
    jobs, answers = expected
    core = world.core()
    assert run(core, arrivals(jobs, 1)) == answers
    before = core.stats().cached_tokens_total
    again = [replace(job, key=f"again-{job.key}") for job in jobs]
    repeated = run(core, arrivals(again, 2))
    assert {(key.removeprefix("again-"), index): ids for (key, index), ids in repeated.items()} == answers
    hits = core.stats().cached_tokens_total - before
    assert hits >= sum((len(job.prompt_token_ids) - 1) // BLOCK_SIZE * BLOCK_SIZE for job in jobs) // 2, "the second round found the first"


@pytest.mark.parametrize("caching", [True, False])
def test_preempted_equals_undisturbed(world: World, expected, caching: bool) -> None:  # type: ignore[no-untyped-def]
    jobs, answers = expected
    core = world.core(num_blocks=13, enable_prefix_caching=caching, max_num_batched_tokens=48)
    assert run(core, arrivals(jobs, 4)) == answers
    assert core.stats().preemptions_total > 0


@pytest.mark.parametrize("num_blocks", [13, 128])
def test_a_step_ahead_equals_in_turn(world: World, expected, num_blocks: int) -> None:  # type: ignore[no-untyped-def]
    """As on a GPU, where the next step is scheduled before the tokens of the last are known."""
    jobs, answers = expected
    core = world.core(num_blocks=num_blocks, max_num_batched_tokens=48)
    core.runner.steps_ahead = 1
    assert run(core, arrivals(jobs, 5)) == answers
