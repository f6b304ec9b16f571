"""The thought's budget, the bound of what follows it, and sequences whose next token decides what may follow: what is appended, when, and
who waits for whom."""

from __future__ import annotations

import random

import pytest

from ernie_backend.core.outputs import GRAMMAR_TOO_COMPLEX
from ernie_backend.errors import from_wire
from ernie_backend.protocol import FinishReason
from tests.core.driver import Driver, request
from tests.fakes.runner import expected_tokens

PROMPT = (5, 6, 7)
CLOSING = (101, 102, 103)
NEVER = 10**6
"""No fake token is it: the thought does not end by itself."""


def with_budget(budget: int, count: int, closing: tuple[int, ...] = CLOSING) -> list[int]:
    """What a lone sequence says whose thought is closed after `budget` tokens."""
    thought = expected_tokens(PROMPT, budget)
    known = [*thought, *closing]
    return [*known, *expected_tokens((*PROMPT, *known), count)][:count]


@pytest.mark.parametrize("steps_ahead", [0, 1])
@pytest.mark.parametrize("budget", [1, 4, 9])
def test_the_thought_is_closed_and_the_answer_goes_on(steps_ahead: int, budget: int) -> None:
    driver = Driver(steps_ahead=steps_ahead)
    thinking = {"thought_end_id": NEVER, "reasoning_max_tokens": budget, "thought_closing_ids": CLOSING}
    driver.core.add(request("a", PROMPT, 20, **thinking))
    driver.run()
    assert driver.tokens["a", 0] == with_budget(budget, 20)
    assert driver.reasons["a", 0] is FinishReason.LENGTH


@pytest.mark.parametrize("steps_ahead", [0, 1])
def test_a_thought_that_ends_in_time_is_left_alone(steps_ahead: int) -> None:
    end = expected_tokens(PROMPT, 3)[2]
    driver = Driver(steps_ahead=steps_ahead)
    driver.core.add(request("a", PROMPT, 12, thought_end_id=end, reasoning_max_tokens=5, thought_closing_ids=CLOSING))
    driver.core.add(request("b", PROMPT, 12, thought_end_id=end, reasoning_max_tokens=3, thought_closing_ids=CLOSING))
    driver.run()
    assert driver.tokens["a", 0] == driver.tokens["b", 0] == expected_tokens(PROMPT, 12)


@pytest.mark.parametrize(("max_tokens", "kept"), [(5, 0), (6, 1), (8, 3), (9, 3)])
def test_the_closing_has_the_room_that_is_left(max_tokens: int, kept: int) -> None:
    driver = Driver()
    thinking = {"thought_end_id": NEVER, "reasoning_max_tokens": 5, "thought_closing_ids": CLOSING}
    driver.core.add(request("a", PROMPT, max_tokens, logprobs=0, **thinking))
    driver.run()
    assert driver.tokens["a", 0] == with_budget(5, max_tokens) and len(driver.tokens["a", 0]) == max_tokens
    assert driver.tokens["a", 0][5 : 5 + kept] == list(CLOSING[:kept])
    assert driver.reasons["a", 0] is FinishReason.LENGTH


@pytest.mark.parametrize("steps_ahead", [0, 1])
@pytest.mark.parametrize("bound", [1, 2, 7, 40])
def test_an_answer_is_bounded_behind_its_thought(steps_ahead: int, bound: int) -> None:
    """Behind one that ends by itself, with and without a budget, and behind one that is closed; by max_tokens if that is less."""
    end = expected_tokens(PROMPT, 3)[2]
    driver = Driver(steps_ahead=steps_ahead)
    thinking = {"thought_closing_ids": CLOSING, "response_max_tokens": bound}
    driver.core.add(request("ends", PROMPT, 12, thought_end_id=end, **thinking))
    driver.core.add(request("in time", PROMPT, 12, thought_end_id=end, reasoning_max_tokens=5, **thinking))
    driver.core.add(request("closed", PROMPT, 12, thought_end_id=NEVER, reasoning_max_tokens=4, **thinking))
    driver.core.add(request("endless", PROMPT, 12, thought_end_id=NEVER, **thinking))
    driver.run()
    assert driver.tokens["ends", 0] == driver.tokens["in time", 0] == expected_tokens(PROMPT, min(12, 3 + bound))
    assert driver.tokens["closed", 0] == with_budget(4, min(12, 4 + len(CLOSING) + bound))
    assert driver.tokens["endless", 0] == expected_tokens(PROMPT, 12)
    assert set(driver.reasons.values()) == {FinishReason.LENGTH}


def test_appended_ids_have_log_probabilities() -> None:
    driver = Driver()
    driver.core.add(request("a", PROMPT, 8, logprobs=0, thought_end_id=NEVER, reasoning_max_tokens=2, thought_closing_ids=CLOSING))
    events = []
    while driver.core.has_work:
        events += driver.step().events
    assert all(len(event.logprobs) == len(event.token_ids) for event in events)
    assert [entry.logprob for event in events for entry in event.logprobs] == [-1.0] * 2 + [0.0] * 3 + [-1.0] * 3


@pytest.mark.parametrize("steps_ahead", [0, 1])
def test_preempted_and_crowded_sequences_say_the_same(steps_ahead: int) -> None:
    """A small pool and a small step: closings are cut into chunks, sequences preempted between closing and computing it."""
    rng = random.Random(3)
    driver = Driver(num_blocks=12, steps_ahead=steps_ahead, max_num_batched_tokens=4)
    expected = {}
    for i in range(30):
        budget, count, bound = rng.randint(1, 12), rng.randint(4, 30), rng.choice([None, 1, 5])
        thinking = {"thought_end_id": NEVER, "reasoning_max_tokens": budget, "thought_closing_ids": CLOSING * 3}
        driver.core.add(request(f"r{i}", PROMPT, count, response_max_tokens=bound, **thinking))
        most = count if bound is None else min(count, budget + 3 * len(CLOSING) + bound)
        expected[f"r{i}", 0] = with_budget(budget, most, CLOSING * 3)
    driver.run()
    assert driver.tokens == expected
    assert driver.scheduler.stats().preemptions_total > 0


def test_a_constrained_sequence_waits_alone() -> None:
    """Its next token needs its last one; the others are computed in every step."""
    driver = Driver(steps_ahead=1)
    driver.core.add(request("free", PROMPT, 20))
    driver.core.add(request("bound", PROMPT, 20, grammar="anything"))
    while ("free", 0) not in driver.reasons:
        driver.step()
    assert driver.tokens["free", 0] == expected_tokens(PROMPT, 20)
    steps = [{s.sequence_id for s in output.scheduled} for output in driver.runner.outputs]
    assert all(0 in step for step in steps[:20])
    assert [1 in step for step in steps[:20]] == [True, False] * 10
    driver.run()
    assert driver.tokens["bound", 0] == expected_tokens(PROMPT, 20)


def test_a_grammar_that_becomes_too_complex_is_the_requests_fault() -> None:
    driver = Driver()
    driver.runner.fail_sampling_of.add(0)
    driver.runner.why_sampling_fails = GRAMMAR_TOO_COMPLEX
    driver.core.add(request("a", PROMPT, 5, grammar="anything"))
    driver.core.add(request("b", PROMPT, 5))
    driver.run()
    error = from_wire(str(driver.errors["a", 0]))
    assert error.http_status == 400 and "simpler" in error.message
    assert driver.tokens["b", 0] == expected_tokens(PROMPT, 5)
