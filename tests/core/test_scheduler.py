"""Tables of (requests, steps) → exact grants and block ids."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ernie_backend.protocol import FinishReason, Level
from tests.core.driver import Driver, request
from tests.fakes.runner import expected_tokens


def grants(driver: Driver) -> list[tuple[int, int, int, tuple[int, ...]]]:
    """(sequence, computed, scheduled, blocks) of the last step."""
    output = driver.runner.outputs[-1]
    return [(s.sequence_id, s.num_computed_tokens, s.num_scheduled_tokens, s.block_ids) for s in output.scheduled]


def test_prefill_then_decode() -> None:
    driver = Driver()
    driver.core.add(request("a", tuple(range(1, 7)), max_tokens=4))
    table = [[(0, 0, 6, (0, 1))], [(0, 6, 1, (0, 1))], [(0, 7, 1, (0, 1))], [(0, 8, 1, (0, 1, 2))]]
    for expected in table:
        driver.step()
        assert grants(driver) == expected
    assert driver.tokens["a", 0] == expected_tokens(tuple(range(1, 7)), 4)
    assert driver.reasons["a", 0] is FinishReason.LENGTH
    driver.run()


def test_a_long_prompt_comes_in_chunks_beside_a_decode() -> None:
    driver = Driver(max_num_batched_tokens=8)
    driver.core.add(request("a", (1, 2), max_tokens=6))
    driver.step()
    driver.core.add(request("b", tuple(range(20)), max_tokens=2))
    sizes = []
    for _ in range(4):
        driver.step()
        sizes.append([count for _, _, count, _ in grants(driver)])
    assert sizes == [[1, 7], [1, 7], [1, 6], [1, 1]]
    driver.run()
    assert driver.tokens["b", 0] == expected_tokens(tuple(range(20)), 2)


def test_without_chunked_prefill_a_prompt_waits_until_it_fits() -> None:
    driver = Driver(enable_chunked_prefill=False, max_num_batched_tokens=64)
    driver.core.add(request("a", tuple(range(40)), max_tokens=2))
    driver.core.add(request("b", tuple(range(100, 140)), max_tokens=2))
    driver.step()
    assert [s for s, *_ in grants(driver)] == [0]
    driver.step()
    assert [(s, count) for s, _, count, _ in grants(driver)] == [(0, 1), (1, 40)]
    driver.run()


def test_max_num_seqs_bounds_the_batch() -> None:
    driver = Driver(max_num_seqs=2)
    for key in "abc":
        driver.core.add(request(key, (1, 2, 3), max_tokens=3))
    driver.step()
    assert len(grants(driver)) == 2 and driver.scheduler.stats().num_waiting == 1
    driver.run()
    assert set(driver.reasons.values()) == {FinishReason.LENGTH}


def test_a_prefix_is_found_and_its_last_token_recomputed() -> None:
    driver = Driver()
    prompt = tuple(range(8))
    driver.core.add(request("a", prompt, max_tokens=1))
    driver.run()
    driver.core.add(request("b", prompt, max_tokens=1))
    driver.step()
    assert grants(driver) == [(1, 4, 4, (0, 2))], "block 1 holds the same tokens, but logits need the last token computed again"
    driver.core.add(request("c", (*prompt, 9), max_tokens=1))
    driver.step()
    assert grants(driver)[0][:3] == (2, 8, 1) and grants(driver)[0][3][:2] == (0, 1)
    assert driver.scheduler.stats().cached_tokens_total == 12
    driver.run()


def test_prefix_caching_can_be_off() -> None:
    driver = Driver(enable_prefix_caching=False)
    for key in "ab":
        driver.core.add(request(key, tuple(range(8)), max_tokens=1))
        driver.run()
    assert driver.runner.computed_tokens == 16


def test_preemption_takes_the_latest_and_lets_it_recompute() -> None:
    driver = Driver(num_blocks=6, max_model_len=24, enable_prefix_caching=False)
    driver.core.add(request("a", tuple(range(8)), max_tokens=12))
    driver.core.add(request("b", tuple(range(50, 58)), max_tokens=12))
    driver.run()
    assert driver.scheduler.stats().preemptions_total > 0
    assert driver.tokens["a", 0] == expected_tokens(tuple(range(8)), 12)
    assert driver.tokens["b", 0] == expected_tokens(tuple(range(50, 58)), 12)


@pytest.mark.parametrize("caching", [True, False])
def test_choices_share_the_prompt_blocks(caching: bool) -> None:
    driver = Driver(enable_prefix_caching=caching)
    prompt = tuple(range(10))
    driver.core.add(request("a", prompt, max_tokens=3, n=3, seed=7))
    driver.step()
    assert grants(driver) == [(0, 0, 10, (0, 1, 2))], "the others wait for choice 0 to compute the prompt"
    driver.step()
    assert [(s, computed, count, blocks[:2]) for s, computed, count, blocks in grants(driver)] == [
        (0, 10, 1, (0, 1)),
        (1, 8, 2, (0, 1)),
        (2, 8, 2, (0, 1)),
    ]
    driver.run()
    for index in range(3):
        assert driver.tokens["a", index] == expected_tokens(prompt, 3, seed=7 + index)


def test_choices_finish_when_their_leader_is_gone() -> None:
    driver = Driver()
    driver.core.add(request("a", tuple(range(40)), max_tokens=3, n=2))
    driver.step()
    driver.take(driver.core.finish("a", FinishReason.STOP, index=0))
    driver.run()
    assert driver.reasons == {("a", 0): FinishReason.STOP, ("a", 1): FinishReason.LENGTH}


def test_a_waiting_choice_does_not_hold_up_the_queue() -> None:
    driver = Driver(max_num_batched_tokens=8)
    driver.core.add(request("a", tuple(range(12)), max_tokens=2, n=2))
    driver.core.add(request("b", (1, 2), max_tokens=2))
    driver.step()
    driver.step()
    assert [s for s, *_ in grants(driver)] == [0, 2]
    driver.run()


def test_end_tokens_stop_by_cause() -> None:
    prompt = (3, 1, 4)
    tokens = expected_tokens(prompt, 8)
    driver = Driver()
    driver.core.add(request("eos", prompt, 8, eos_token_ids=(tokens[2],)))
    driver.core.add(request("stop", prompt, 8, stop_token_ids=(tokens[4],)))
    driver.core.add(request("min", prompt, 8, eos_token_ids=(tokens[2],), min_tokens=4))
    driver.core.add(request("last", prompt, 3, eos_token_ids=(tokens[2],)))
    driver.run()
    assert driver.tokens["eos", 0] == tokens[:3] and driver.reasons["eos", 0] is FinishReason.STOP
    assert driver.tokens["stop", 0] == tokens[:5]
    assert driver.tokens["min", 0] == tokens and driver.reasons["min", 0] is FinishReason.LENGTH
    assert driver.reasons["last", 0] is FinishReason.STOP, "an end token on the last allowed position is a stop"


@pytest.mark.parametrize("steps_ahead", [0, 1])
def test_the_context_ends_an_answer(steps_ahead: int) -> None:
    driver = Driver(max_model_len=8, steps_ahead=steps_ahead)
    driver.core.add(request("a", (1, 2, 3, 4, 5), max_tokens=100))
    driver.run()
    assert len(driver.tokens["a", 0]) == 3 and driver.reasons["a", 0] is FinishReason.LENGTH


def test_abort_gives_the_blocks_back_before_the_next_step() -> None:
    driver = Driver()
    driver.core.add(request("a", (1, 2, 3), max_tokens=50))
    driver.core.add(request("b", (1, 2, 3), max_tokens=2))
    driver.step()
    computed = driver.runner.computed_tokens
    driver.take(driver.core.finish("a", FinishReason.ABORT))
    driver.take(driver.core.finish("a", FinishReason.ABORT))
    driver.take(driver.core.finish("nobody", FinishReason.ABORT))
    driver.run()
    assert driver.runner.computed_tokens == computed + 1, "only b goes on"
    assert driver.reasons["a", 0] is FinishReason.ABORT and driver.reasons["b", 0] is FinishReason.LENGTH


def test_a_failed_step_ends_its_requests_and_no_other() -> None:
    driver = Driver(max_num_seqs=1)
    driver.core.add(request("a", (1, 2, 3), max_tokens=5))
    driver.core.add(request("b", (1, 2, 3), max_tokens=5))
    driver.step()
    driver.runner.fail_next = True
    driver.step()
    assert driver.reasons == {("a", 0): FinishReason.ERROR}
    assert "scripted" not in (driver.errors["a", 0] or ""), "no internals in what a user sees"
    driver.run()
    assert driver.tokens["b", 0] == expected_tokens((1, 2, 3), 5)


def test_failed_sampling_ends_one_sequence() -> None:
    driver = Driver()
    driver.core.add(request("a", (1, 2, 3), max_tokens=5))
    driver.core.add(request("b", (1, 2, 3), max_tokens=5))
    driver.runner.fail_sampling_of.add(0)
    driver.run()
    assert driver.reasons == {("a", 0): FinishReason.ERROR, ("b", 0): FinishReason.LENGTH}


def test_blocks_of_failed_sampling_are_not_found_again() -> None:
    driver = Driver()
    prompt = tuple(range(20))
    driver.core.add(request("bad", prompt, max_tokens=5))
    driver.runner.fail_sampling_of.add(0)
    driver.run()
    assert driver.reasons["bad", 0] is FinishReason.ERROR
    driver.core.add(request("good", prompt, max_tokens=5))
    driver.run()
    assert driver.tokens["good", 0] == expected_tokens(prompt, 5)
    assert driver.scheduler.stats().cached_tokens_total == 0


def test_a_newcomer_is_admitted_only_if_all_of_it_fits() -> None:
    driver = Driver(num_blocks=12, max_model_len=40, max_num_batched_tokens=8, enable_prefix_caching=False)
    driver.core.add(request("a", tuple(range(20)), max_tokens=20))
    for _ in range(4):
        driver.step()
    driver.core.add(request("b", tuple(range(50, 80)), max_tokens=5))
    driver.run()
    assert driver.scheduler.stats().preemptions_total == 0
    assert driver.tokens["b", 0] == expected_tokens(tuple(range(50, 80)), 5)


def test_an_update_that_raises_loses_no_finish() -> None:
    driver = Driver()
    driver.core.add(request("a", (1, 2), max_tokens=1))
    driver.core.add(request("b", (1, 2), max_tokens=9))
    remember, calls = driver.scheduler.kv.remember, []

    def explode(sequence: object) -> None:
        calls.append(sequence)
        if len(calls) == 2:
            raise RuntimeError("scripted")
        remember(sequence)  # type: ignore[arg-type]

    driver.scheduler.kv.remember = explode  # type: ignore[method-assign]
    driver.step()
    assert driver.reasons == {("a", 0): FinishReason.LENGTH, ("b", 0): FinishReason.ERROR}
    driver.run()


def test_a_tenant_with_a_long_queue_does_not_starve_another() -> None:
    driver = Driver(max_num_seqs=1, num_blocks=64)
    for i in range(30):
        driver.core.add(replace(request(f"many{i}", (1, 2, 3), 4), tenant="a"))
    driver.step()
    driver.core.add(replace(request("one", (1, 2, 3), 4), tenant="b"))
    driver.core.add(replace(request("flex", (1, 2, 3), 4), tenant="c", level=Level.FLEX))
    driver.core.add(replace(request("urgent", (1, 2, 3), 4), tenant="a", level=Level.PRIORITY))
    driver.run()
    order = [key for key, _ in driver.reasons]
    assert order[:3] == ["many0", "urgent", "one"] and order[-1] == "flex", "admitted by level, then in turns"


@pytest.mark.parametrize("said", [FinishReason.STOP, FinishReason.TOOL_CALLS])
def test_what_a_stop_came_to_is_counted_when_it_has_been_read(said: FinishReason) -> None:
    driver = Driver()
    stop = expected_tokens((1, 2, 3), 4)[2]
    driver.core.add(replace(request("a", (1, 2, 3), 8, stop_token_ids=(stop,)), may_call=True))
    driver.core.add(replace(request("b", (1, 2, 3), 2), may_call=True))
    driver.run()
    counts = driver.scheduler.stats().finished_total
    assert (counts["stop"], counts["tool_calls"], counts["length"]) == (0, 0, 1)
    driver.scheduler.count_end(said)
    assert driver.scheduler.stats().finished_total[said.value] == 1
