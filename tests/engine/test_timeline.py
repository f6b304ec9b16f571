"""What the timeline makes of a request's life, moment by moment; and the histograms that it fills."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from ernie_backend import timeline as module
from ernie_backend.core.outputs import StepOutput
from ernie_backend.errors import InvalidRequestError, OverloadedError
from ernie_backend.metrics import Histogram, histogram_metrics
from ernie_backend.protocol import FinishReason, GenerateEvent, GenerateRequest, SamplingParams
from ernie_backend.timeline import Timeline


class Clock:
    """Stands in for the module `time` there."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


def request(key: str = "k", n: int = 1, arrived_at: float = 99.0) -> GenerateRequest:
    return GenerateRequest(key, (1, 2, 3), SamplingParams(max_tokens=20), n=n, arrived_at=arrived_at)


def token(key: str = "k", index: int = 0, reason: FinishReason | None = None, error: str | None = None) -> GenerateEvent:
    return GenerateEvent(key, index, () if error else (7,), finish_reason=reason, error=error)


def step(timeline: Timeline, clock: Clock, at: float, *events: GenerateEvent, started: tuple[tuple[str, int], ...] = ()) -> StepOutput:
    """A step that was scheduled 0.25 s before it was told."""
    clock.now = at
    return timeline.noted(StepOutput(events, started, len(events)), at - 0.25)


def test_a_life(clock: Clock) -> None:
    timeline = Timeline()
    timeline.arrived(request())
    step(timeline, clock, 103.25, token(), started=(("k", 0),))
    step(timeline, clock, 103.5, token())
    told = step(timeline, clock, 105.0, token(reason=FinishReason.LENGTH))
    timings = told.events[0].timings
    assert timings is not None and len(timeline) == 0
    assert (timings.arrived_at, timings.queued_at, timings.started_at, timings.first_token_at, timings.finished_at) == (
        99.0, 100.0, 103.0, 103.25, 105.0,
    )  # fmt: skip
    sums = {name: getattr(timeline, name).sum for name in ("time_to_first_token", "queue", "prefill", "decode", "inference", "end_to_end")}
    assert sums == {"time_to_first_token": 4.25, "queue": 3.0, "prefill": 0.25, "decode": 1.75, "inference": 2.0, "end_to_end": 6.0}
    assert (timeline.time_between_tokens.count, timeline.time_between_tokens.sum) == (2, 1.75)
    assert (timeline.generation_tokens.sum, timeline.prompt_tokens.sum, timeline.max_tokens.sum) == (3, 3, 20)


def test_each_choice_has_a_life_of_its_own(clock: Clock) -> None:
    timeline = Timeline()
    timeline.arrived(request(n=2))
    step(timeline, clock, 101.0, token(), started=(("k", 0),))
    ended = step(timeline, clock, 102.0, token(reason=FinishReason.STOP), token(index=1), started=(("k", 1),))
    assert [event.timings is not None for event in ended.events] == [True, False] and len(timeline) == 1
    last = step(timeline, clock, 104.0, token(index=1, reason=FinishReason.STOP)).events[0].timings
    assert last is not None and (last.started_at, last.first_token_at) == (101.75, 102.0) and len(timeline) == 0
    assert timeline.choices_total == 2 and timeline.end_to_end.count == 2


def test_what_never_ran_is_rejected_or_cancelled_and_leaves_nothing(clock: Clock) -> None:
    timeline = Timeline()
    errors = (OverloadedError("busy").to_wire(), InvalidRequestError("no").to_wire(), OverloadedError("busy").to_wire())
    for i, error in enumerate(errors):
        timeline.arrived(request(str(i), n=2))
        events = tuple(token(str(i), index, FinishReason.ERROR, error) for index in range(2))
        assert all(event.timings is None for event in timeline.noted(StepOutput(events)).events)
    assert timeline.rejected_total == {429: 2, 400: 1} and timeline.end_to_end.count == 0
    timeline.arrived(request())
    clock.now = 107.0
    (aborted,) = timeline.noted(StepOutput((GenerateEvent("k", 0, (), finish_reason=FinishReason.ABORT),))).events
    assert aborted.timings is not None and aborted.timings.started_at is None
    assert timeline.queue.sum == 7.0 and timeline.decode.count == timeline.prefill.count == 0 and len(timeline) == 0


def test_events_of_unknown_requests_pass(clock: Clock) -> None:
    output = StepOutput((token("nobody", reason=FinishReason.STOP),))
    assert Timeline().noted(output).events == output.events


def test_a_histogram_counts_every_value_once_and_up_to_its_bound() -> None:
    bounds = (0.1, 1, 10)
    histogram = Histogram(bounds)
    values = [random.Random(1).choice((0.05, 0.1, 0.5, 1, 1.5, 10, 11)) for _ in range(500)]
    for value in values:
        histogram.observe(value)
    histogram.observe(0.5, 3)
    values += [0.5] * 3
    series = {(m.name, m.labels.get("le")): m.read() for m in histogram_metrics("x", "help", histogram)}
    for bound, text in ((0.1, "0.1"), (1, "1"), (10, "10")):
        assert series["x_bucket", text] == sum(value <= bound for value in values)
    assert series["x_bucket", "+Inf"] == series["x_count", None] == len(values)
    assert series["x_sum", None] == pytest.approx(sum(values))
