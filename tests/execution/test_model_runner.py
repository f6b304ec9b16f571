"""The runner through hand-made steps: what a sequence gets does not depend on how its steps were cut or on who else was in them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ernie_backend.config import ModelConfig
from ernie_backend.core.outputs import NewSequence, ScheduledSequence, SchedulerOutput
from ernie_backend.execution.kv_cache import kv_cache_bytes_per_block
from ernie_backend.protocol import SamplingParams

from .hand_scheduler import GREEDY, HandScheduler, make_runner
from .tiny import write_tiny

RANDOM = SamplingParams(max_tokens=20, temperature=1.0, top_p=0.95, top_k=50)
PROMPTS = [np.random.default_rng(9).integers(3, 600, n).tolist() for n in (1, 13, 24, 30)]


@pytest.fixture(scope="module", params=["dense", "moe"])
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    write_tiny(folder, moe=request.param == "moe")
    return folder


@pytest.fixture
def runner(folder):
    return make_runner(folder)


def alone(folder, i: int, sampling: SamplingParams = GREEDY, seed: int | None = None) -> list[int]:
    return HandScheduler(make_runner(folder), [PROMPTS[i]], [sampling], [seed]).run(20)[0]


@pytest.mark.parametrize("sampling", [GREEDY, RANDOM])
def test_batched_chunked_and_mixed_equal_alone(folder, runner, sampling):
    seeds = [11, 12, 13, 14]
    expected = [alone(folder, i, sampling, seeds[i]) for i in range(4)]
    assert HandScheduler(runner, PROMPTS, [sampling] * 4, seeds).run(20) == expected
    assert HandScheduler(make_runner(folder), PROMPTS, [sampling] * 4, seeds).run(20, chunk=7) == expected
    hand = HandScheduler(make_runner(folder), PROMPTS, [sampling] * 4, seeds)
    rng = np.random.default_rng(0)
    while min(len(hand.outputs(i)) for i in range(4)) < 20:  # any subset, any chunk, decode and prefill side by side
        hand.step({i: int(rng.integers(1, 12)) for i in rng.permutation(4)[: rng.integers(1, 5)].tolist()})
    assert [hand.outputs(i)[:20] for i in range(4)] == expected


@pytest.mark.parametrize("sampling", [GREEDY, RANDOM])
def test_preempted_sequence_recomputes_from_its_own_ids(folder, runner, sampling):
    hand = HandScheduler(runner, PROMPTS[:2], [sampling] * 2, [1, 2])
    for _ in range(6):
        hand.step({0: 99, 1: 99})
    hand.computed[1] = 0
    hand.blocks[1] = hand.blocks[1][::-1]
    for _ in range(3):
        hand.step({0: 99})
    while len(hand.outputs(1)) < 20:
        hand.step({1: 5})
    assert hand.outputs(1) == HandScheduler(make_runner(folder), [PROMPTS[1]], [sampling], [2]).run(20)[0]


def test_blocks_of_another_sequence_serve_as_a_prefix(folder, runner):
    first = HandScheduler(runner, [PROMPTS[3]])
    first.run(1)
    new = NewSequence(7, tuple(PROMPTS[3]), GREEDY, None)
    shared = (*first.blocks[0][:3], *first.blocks[0][10:14])  # 24 tokens from the cache
    result = runner.execute(SchedulerOutput((new,), (ScheduledSequence(7, 24, 6, shared, True),), ()))
    assert result.sampled[7] == first.outputs(0)[0]


def test_one_failing_sequence_leaves_the_others_alone(folder, runner):
    bad = replace(GREEDY, logit_bias=((10**6, 1.0),))
    hand = HandScheduler(runner, PROMPTS[:3], [GREEDY, bad, RANDOM], [None, None, 5])
    assert hand.run(20)[0] == alone(folder, 0)
    assert hand.outputs(2) == alone(folder, 2, RANDOM, 5)
    assert set(hand.failed) == {1} and "IndexError" in hand.failed[1]


def test_a_sequence_with_nothing_left_to_choose_fails_alone(folder, runner):
    everything = tuple((i,) for i in range(600))
    hand = HandScheduler(runner, PROMPTS[:2], [replace(GREEDY, bad_words_token_ids=everything), GREEDY])
    assert hand.run(20)[1] == alone(folder, 1)
    assert set(hand.failed) == {0}


def test_unseeded_sequences_differ_and_repeat_with_the_engine(folder):
    def draws(engine_seed: int) -> list[list[int]]:
        return HandScheduler(make_runner(folder, seed=engine_seed), [PROMPTS[1]] * 3, [RANDOM] * 3).run(12)

    first = draws(0)
    assert first[0] != first[1] != first[2] != first[0]
    assert draws(0) == first
    assert draws(1) != first


def test_finished_sequences_are_forgotten_and_preempted_ones_kept(runner):
    hand = HandScheduler(runner, PROMPTS[:3])
    hand.step({0: 99, 1: 99, 2: 4})
    assert set(runner.states) == {0, 1, 2}
    hand.finished = (0, 2, 99)
    hand.step({1: 1})
    assert set(runner.states) == {1}
    assert runner.execute(SchedulerOutput((), (), (1,))).sampled == {} and not runner.states


def test_logprobs_of_the_chosen_token_and_the_most_likely(runner):
    hand = HandScheduler(runner, PROMPTS[:2], [replace(GREEDY, logprobs=3), GREEDY])
    hand.run(4)
    assert hand.logprobs[1] == [None] * 4
    for token, found in zip(hand.outputs(0), hand.logprobs[0], strict=True):
        assert found.top_token_ids[0] == token and found.top_logprobs[0] == found.logprob < 0
        assert len(found.top_token_ids) == 3 and sorted(found.top_logprobs, reverse=True) == list(found.top_logprobs)


@pytest.mark.parametrize(("num_blocks", "max_model_len"), [(1, 2), (1, 8), (40, 256)])
def test_warm_up_leaves_nothing_behind(folder, num_blocks, max_model_len):
    runner = make_runner(folder, num_blocks=num_blocks, max_model_len=max_model_len)
    runner.warm_up()
    assert not runner.states and runner.num_unseeded == 0
    if num_blocks == 40:
        assert HandScheduler(runner, [PROMPTS[1]]).run(20)[0] == alone(folder, 1)


def test_cache_bytes(folder, runner):
    arrays = [array for cache in runner.model.caches for array in (cache.k, cache.v)]
    elements = sum(int(np.prod(array.shape)) for array in arrays)
    assert kv_cache_bytes_per_block(ModelConfig.from_folder(folder), runner.block_size) * runner.num_blocks == elements * 4


def test_a_new_sequence_that_fails_loses_no_ids_of_another(runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scheduler tells the ids that it has added itself once."""
    hand = HandScheduler(runner, PROMPTS[1:3])
    hand.step({0: 99})
    monkeypatch.setattr(runner, "_state", lambda new: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        runner.launch(SchedulerOutput((NewSequence(1, (5,), GREEDY, None),), (), (), {0: (7, 8)}))
    assert runner.states[0].token_ids[-2:] == [7, 8]
