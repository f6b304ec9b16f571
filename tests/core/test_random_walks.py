"""Seeded random schedules: whatever comes, goes and is preempted, every surviving sequence gets the tokens of its lone run."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from ernie_backend.protocol import FinishReason, Level
from tests.core.driver import Driver, request
from tests.fakes.runner import expected_tokens


@pytest.mark.parametrize("steps_ahead", [0, 1])
@pytest.mark.parametrize("seed", range(40))
def test_random_walk(seed: int, steps_ahead: int) -> None:
    rng = random.Random(seed)
    driver = Driver(
        num_blocks=rng.choice([16, 20, 40]),
        steps_ahead=steps_ahead,
        max_num_seqs=rng.choice([1, 3, 8]),
        max_num_batched_tokens=rng.choice([8, 13, 64]),
        enable_prefix_caching=rng.random() < 0.7,
        block_size_tokens=4,
        max_model_len=64,
    )
    stem = tuple(rng.randrange(100) for _ in range(24))
    wanted: dict[str, tuple[tuple[int, ...], int, int, int]] = {}
    disturbed: set[str] = set()
    failed_steps = 0
    for number in range(60):
        action = rng.random()
        if action < 0.45:
            prompt = stem[: rng.randrange(25)] + tuple(rng.randrange(100) for _ in range(rng.randrange(1, 12)))
            count, n = rng.randrange(1, 20), rng.choice([1, 1, 1, 3])
            key = f"r{number}"
            stop = rng.choice(expected_tokens(prompt, 30, seed=0))  # ends some answers, which a step ahead is told one step late
            wanted[key] = (prompt, count, n, stop)
            bad_words = rng.choice([(), (), ((1, 2),)])  # what is forbidden depends on the tokens before: no step ahead
            asked = request(key, prompt, count, n=n, seed=0, stop_token_ids=(stop,), bad_words_token_ids=bad_words)
            driver.core.add(replace(asked, tenant=rng.choice("xyz"), level=rng.choice(list(Level))))
        elif action < 0.55 and wanted:
            key = rng.choice(list(wanted))
            index = rng.choice([None, 0])
            disturbed.add(key)
            driver.take(driver.core.finish(key, FinishReason.ABORT, index=index))
        elif action < 0.57:
            driver.runner.fail_next = True
            failed_steps += 1
        if action > 0.3 and driver.core.has_work:
            driver.step()
    driver.run()
    assert FinishReason.ERROR not in driver.reasons.values() or failed_steps
    for key, (prompt, count, n, stop) in wanted.items():
        for index in range(n):
            expected = expected_tokens(prompt, count, seed=index)
            if stop in expected:
                expected = expected[: expected.index(stop) + 1]
            reason = driver.reasons[key, index]
            if reason in (FinishReason.LENGTH, FinishReason.STOP):
                assert (reason is FinishReason.STOP) == (stop in expected)
                assert driver.tokens[key, index] == expected
            else:
                assert key in disturbed or reason is FinishReason.ERROR
                assert driver.tokens[key, index] == expected[: len(driver.tokens[key, index])]
