"""The engine thread: inbox, abort, overload, drain, shutdown, and a core that breaks."""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import replace

from ernie_backend.core.admission import Limits
from ernie_backend.core.engine_core import EngineCore
from ernie_backend.core.outputs import ModelRunnerOutput, SchedulerOutput, StepOutput
from ernie_backend.core.scheduler import Scheduler
from ernie_backend.engine import Engine
from ernie_backend.errors import (
    InvalidRequestError,
    OverloadedError,
    RequestAbortedError,
    RequestTimeoutError,
    UnavailableError,
    from_wire,
)
from ernie_backend.protocol import FinishReason, GenerateEvent
from tests.core.driver import config, request
from tests.fakes.runner import FakeRunner, expected_tokens


class GatedRunner(FakeRunner):
    """Steps only when allowed, so that a test decides what happens between two steps."""

    def __init__(self) -> None:
        super().__init__(256, 4)
        self.allowed = threading.Semaphore(0)
        self.entered = threading.Semaphore(0)

    def execute(self, output: SchedulerOutput) -> ModelRunnerOutput:
        self.entered.release()
        assert self.allowed.acquire(timeout=60)
        return super().execute(output)


class Harness:
    def __init__(self, runner: FakeRunner | None = None, *, max_concurrency: int = 100, limits: Limits | None = None) -> None:
        self.runner = runner or FakeRunner(256, 4)
        self.scheduler = Scheduler(config(max_model_len=512), 256)
        self.events: queue.Queue[GenerateEvent] = queue.Queue()
        self.engine = Engine(EngineCore(self.scheduler, self.runner), self._hear, limits or Limits(max_concurrency, 4))
        self.engine.start()

    def _hear(self, output: StepOutput) -> None:
        for event in output.events:
            self.events.put(event)

    def until_finished(self, count: int) -> dict[str, tuple[list[int], GenerateEvent]]:
        tokens: dict[str, list[int]] = {}
        last: dict[str, GenerateEvent] = {}
        while len(last) < count:
            event = self.events.get(timeout=60)
            tokens.setdefault(event.key, []).extend(event.token_ids)
            if event.finish_reason is not None:
                last[event.key] = event
        return {key: (tokens[key], last[key]) for key in last}


def test_requests_are_answered_side_by_side() -> None:
    harness = Harness()
    for i in range(20):
        harness.engine.submit(request(f"r{i}", (i, 2, 3), max_tokens=5 + i))
    answers = harness.until_finished(20)
    for i in range(20):
        assert answers[f"r{i}"][0] == expected_tokens((i, 2, 3), 5 + i)
    harness.engine.shutdown()
    assert harness.scheduler.kv.pool.num_used == 0 and not harness.engine.is_alive


def test_abort_acts_before_the_next_step() -> None:
    runner = GatedRunner()
    harness = Harness(runner)
    harness.engine.submit(request("a", (1, 2, 3), max_tokens=400))
    assert runner.entered.acquire(timeout=60)
    harness.engine.abort("a")
    runner.allowed.release(10)
    tokens, last = harness.until_finished(1)["a"]
    assert last.finish_reason is FinishReason.ABORT
    assert len(tokens) == 1, "the step under way was the last one"
    harness.engine.shutdown()


def test_stop_ends_one_choice() -> None:
    runner = GatedRunner()
    harness = Harness(runner)
    harness.engine.submit(request("a", (1, 2, 3), max_tokens=3, n=2))
    assert runner.entered.acquire(timeout=60)
    harness.engine.stop("a", 0)
    runner.allowed.release(20)
    reasons: dict[int, FinishReason] = {}
    while len(reasons) < 2:
        event = harness.events.get(timeout=60)
        if event.finish_reason is not None:
            reasons[event.index] = event.finish_reason
    assert reasons == {0: FinishReason.STOP, 1: FinishReason.LENGTH}
    harness.engine.shutdown()


def test_a_full_queue_refuses() -> None:
    runner = GatedRunner()
    harness = Harness(runner, max_concurrency=6)
    for i in range(4):  # four run at once
        harness.engine.submit(request(f"run{i}", (1,), max_tokens=2))
    assert runner.entered.acquire(timeout=60)
    for i in range(8):
        harness.engine.submit(request(f"wait{i}", (1,), max_tokens=2))
    runner.allowed.release(200)
    answers = harness.until_finished(12)
    refused = [last for _, last in answers.values() if last.finish_reason is FinishReason.ERROR]
    assert refused and all(isinstance(from_wire(event.error or ""), OverloadedError) for event in refused)
    assert sum(last.finish_reason is FinishReason.LENGTH for _, last in answers.values()) == 12 - len(refused)
    harness.engine.shutdown()


def test_more_answers_than_ever_fit_are_not_put_off() -> None:
    harness = Harness(max_concurrency=2)
    harness.engine.submit(request("three", (1,), max_tokens=2, n=3))
    harness.engine.submit(request("two", (1,), max_tokens=2, n=2))
    answers = harness.until_finished(2)
    error = from_wire(answers["three"][1].error or "")
    assert isinstance(error, InvalidRequestError) and error.param == "n"
    assert answers["two"][1].finish_reason is FinishReason.LENGTH
    harness.engine.shutdown()


def test_a_deadline_ends_a_running_request_before_the_next_step() -> None:
    runner = GatedRunner()
    harness = Harness(runner)
    harness.engine.submit(replace(request("timed", (1, 2), max_tokens=400), deadline=time.monotonic() + 0.1))
    assert runner.entered.acquire(timeout=60)
    time.sleep(0.2)
    runner.allowed.release(10)
    tokens, last = harness.until_finished(1)["timed"]
    assert isinstance(from_wire(last.error or ""), RequestTimeoutError) and len(tokens) == 1
    harness.engine.submit(replace(request("late", (1, 2), max_tokens=4), deadline=time.monotonic() - 1))
    assert isinstance(from_wire(harness.until_finished(1)["late"][1].error or ""), RequestTimeoutError)
    harness.engine.shutdown()
    assert harness.scheduler.kv.pool.num_used == 0


def test_only_what_has_not_been_started_waits_too_long() -> None:
    runner = GatedRunner()
    harness = Harness(runner, limits=Limits(100, 4, max_waiting_seconds=0.1))

    def one_step() -> None:
        runner.allowed.release()
        assert runner.entered.acquire(timeout=60)

    for i in range(4):
        harness.engine.submit(request(f"run{i}", (1, 2), max_tokens=400))
    assert runner.entered.acquire(timeout=60)
    one_step()  # now all seats are taken
    harness.engine.submit(request("waits", (1, 2), max_tokens=400))
    one_step()  # now it waits
    time.sleep(0.2)
    runner.allowed.release()
    ended = harness.until_finished(1)
    assert isinstance(from_wire(ended["waits"][1].error or ""), RequestTimeoutError)
    runner.allowed.release(1000)
    assert {last.finish_reason for _, last in harness.until_finished(4).values()} == {FinishReason.LENGTH}
    harness.engine.shutdown()


def test_answers_are_aborted_by_id_and_tenant() -> None:
    runner = GatedRunner()
    harness = Harness(runner)
    named = {"a": ("x", "cmpl-1"), "b": ("x", "cmpl-1"), "c": ("x", "cmpl-2"), "d": ("y", "cmpl-1")}
    for key, (tenant, answer_id) in named.items():
        harness.engine.submit(replace(request(key, (1, 2), max_tokens=400), tenant=tenant, answer_id=answer_id))
    assert runner.entered.acquire(timeout=60)
    found: queue.Queue[tuple[str, ...]] = queue.Queue()
    harness.engine.abort_answers("x", ("cmpl-1", "cmpl-9"), found.put)
    runner.allowed.release(10)
    assert found.get(timeout=60) == ("cmpl-1",), "two prompts of one request, one id"
    ended = harness.until_finished(2)
    assert set(ended) == {"a", "b"}
    assert all(isinstance(from_wire(last.error or ""), RequestAbortedError) for _, last in ended.values())
    harness.engine.abort_answers("y", None, found.put)
    runner.allowed.release(10)
    assert found.get(timeout=60) == ("cmpl-1",) and set(harness.until_finished(1)) == {"d"}
    runner.allowed.release(1000)
    harness.engine.shutdown()
    harness.engine.abort_answers("x", None, found.put)
    assert found.get(timeout=60) == (), "a stopped engine answers, too"


def test_drain_lets_requests_end_and_refuses_new_ones() -> None:
    runner = GatedRunner()
    harness = Harness(runner)
    harness.engine.submit(request("short", (1, 2), max_tokens=3))
    harness.engine.submit(request("long", (1, 2), max_tokens=500))
    assert runner.entered.acquire(timeout=60)
    harness.engine.drain(0.3)
    harness.engine.submit(request("late", (1, 2), max_tokens=3))
    runner.allowed.release(5)
    answers = harness.until_finished(2)
    assert answers["short"][1].finish_reason is FinishReason.LENGTH
    assert isinstance(from_wire(answers["late"][1].error or ""), UnavailableError)
    time.sleep(0.3)
    runner.allowed.release(1000)
    assert harness.until_finished(1)["long"][1].finish_reason is FinishReason.ABORT
    harness.engine.submit(request("later still", (1, 2), max_tokens=3))
    assert isinstance(from_wire(harness.until_finished(1)["later still"][1].error or ""), UnavailableError)
    assert harness.engine.is_alive, "drained, and still there to refuse"
    harness.engine.shutdown()


def test_shutdown_ends_every_stream() -> None:
    runner = GatedRunner()
    harness = Harness(runner)
    for i in range(6):
        harness.engine.submit(request(f"r{i}", (1, 2), max_tokens=400))
    assert runner.entered.acquire(timeout=60)
    stopper = threading.Thread(target=harness.engine.shutdown)
    stopper.start()
    runner.allowed.release(1000)
    answers = harness.until_finished(6)
    stopper.join(60)
    assert {last.finish_reason for _, last in answers.values()} <= {FinishReason.ABORT, FinishReason.LENGTH}
    assert harness.scheduler.kv.pool.num_used == 0


def test_a_dead_core_fails_every_request_and_says_so() -> None:
    harness = Harness()

    def explode() -> StepOutput:
        raise SystemExit("the worst")

    harness.engine._core.step = explode  # type: ignore[method-assign]
    harness.engine.submit(request("a", (1, 2), max_tokens=5))
    assert isinstance(from_wire(harness.until_finished(1)["a"][1].error or ""), UnavailableError)
    assert not harness.engine.is_alive
    harness.engine.submit(request("b", (1, 2), max_tokens=5))
    assert harness.until_finished(1)["b"][1].finish_reason is FinishReason.ERROR


def test_a_core_that_cannot_compute_any_more_ends_the_engine() -> None:
    """The step's requests hear that it failed, those behind them that the engine has stopped."""
    runner = GatedRunner()
    harness = Harness(runner)
    for i in range(6):  # four run at once
        harness.engine.submit(request(f"r{i}", (1, 2), max_tokens=5))
    assert runner.entered.acquire(timeout=60)
    runner.fail_next = runner.is_lost = True
    runner.allowed.release(100)
    answers = harness.until_finished(6)
    assert {last.finish_reason for _, last in answers.values()} == {FinishReason.ERROR}
    assert isinstance(from_wire(answers["r5"][1].error or ""), UnavailableError)
    harness.engine._thread.join(60)
    assert not harness.engine.is_alive and harness.scheduler.kv.pool.num_used == 0


def test_a_step_that_does_not_end_is_seen_from_outside() -> None:
    runner = GatedRunner()
    harness = Harness(runner)
    assert harness.engine.step_seconds == 0
    harness.engine.submit(request("a", (1, 2), max_tokens=1))
    assert runner.entered.acquire(timeout=60)
    first = harness.engine.step_seconds
    time.sleep(0.01)
    assert 0 < first < harness.engine.step_seconds
    runner.allowed.release(10)
    harness.until_finished(1)
    harness.engine.shutdown()
    assert harness.engine.step_seconds == 0
