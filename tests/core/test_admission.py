"""Who is let in, who is sent away with how long a wait, and whose time is over; on a clock that the test turns."""

from __future__ import annotations

import pytest

from ernie_backend.core.admission import MAX_RETRY_AFTER_SECONDS, Admission, Limits, Load
from ernie_backend.errors import ErnieError, InvalidRequestError, OverloadedError, RequestTimeoutError
from ernie_backend.protocol import GenerateRequest, SamplingParams

LIMITS = Limits(max_concurrency=10, max_num_seqs=4, max_queued_requests=2, max_queued_tokens=100)


def request(key: str = "k", n: int = 1, prompt: int = 10, deadline: float | None = None) -> GenerateRequest:
    return GenerateRequest(key, (1,) * prompt, SamplingParams(max_tokens=5), n=n, deadline=deadline)


@pytest.mark.parametrize(
    ("load", "asked", "expected"),
    [
        (Load(0, 0, 0, 0), request(), None),
        (Load(3, 3, 30, 0), request(), None),  # came together; each has a seat in the next step
        (Load(5, 1, 10, 0), request(), None),
        (Load(5, 5, 50, 0), request(), None),  # came together; one of them will wait
        (Load(6, 2, 20, 0), request(), OverloadedError),  # two wait
        (Load(6, 6, 20, 0), request(), OverloadedError),  # the same, before any step
        (Load(6, 1, 10, 0), request(), None),  # one of the two was preempted: it does not queue
        (Load(4, 4, 95, 0), request(), OverloadedError),  # tokens
        (Load(4, 0, 0, 0), request(prompt=500), None),  # alone, the longest prompt gets in
        (Load(0, 0, 0, 0), request(n=10), None),
        (Load(1, 0, 0, 0), request(n=10), OverloadedError),
        (Load(0, 0, 0, 0), request(n=11), InvalidRequestError),  # never fits
        (Load(0, 0, 0, 0), request(deadline=5.0), RequestTimeoutError),  # its time is over already
    ],
)
def test_refusals(load: Load, asked: GenerateRequest, expected: type[ErnieError] | None) -> None:
    error = Admission(LIMITS).refusal(asked, load, now=5.0)
    assert type(error) is (expected or type(None))
    if isinstance(error, OverloadedError):
        assert error.retry_after_seconds == 1


def test_without_limits_only_concurrency_counts() -> None:
    door = Admission(Limits(10, 4))
    assert door.refusal(request(), Load(9, 5, 10**9, 0), 0.0) is None
    assert isinstance(door.refusal(request(), Load(10, 0, 0, 0), 0.0), OverloadedError)


def test_a_queue_of_zero_takes_what_has_a_seat() -> None:
    door = Admission(Limits(10, 4, max_queued_requests=0))
    assert door.refusal(request(), Load(3, 3, 30, 0), 0.0) is None
    assert isinstance(door.refusal(request(), Load(4, 0, 0, 0), 0.0), OverloadedError)
    assert isinstance(door.refusal(request(n=2), Load(3, 0, 0, 0), 0.0), OverloadedError)
    assert door.refusal(request(n=5), Load(0, 0, 0, 0), 0.0) is None, "later would not be better"


@pytest.mark.parametrize(
    ("ended_per_second", "queued", "expected"), [(2, 6, 3), (10, 6, 1), (0, 6, 20), (0.05, 100, MAX_RETRY_AFTER_SECONDS)]
)
def test_the_wait_follows_the_pace(ended_per_second: float, queued: int, expected: int) -> None:
    door = Admission(Limits(queued + 4, 4))
    for second in range(21):
        error = door.refusal(request(), Load(queued + 4, queued, 0, int(second * ended_per_second)), float(second))
    assert isinstance(error, OverloadedError) and error.retry_after_seconds == expected
    assert f"Try again in {expected} s" in error.message


def test_deadlines() -> None:
    door = Admission(Limits(10, 4, max_waiting_seconds=3))
    for key, deadline in (("soon", 2.0), ("later", 50.0), ("never", None), ("gone", 2.0)):
        door.accepted(request(key, deadline=deadline), now=0.0)
    unfinished, unstarted = {"soon", "later", "never"}, {"soon", "never"}

    def expired(now: float) -> dict[str, str]:
        return {key: error.message for key, error in door.expired(now, unfinished.__contains__, unstarted.__contains__)}

    assert expired(1.9) == {}
    assert set(expired(2.0)) == {"soon"}, "one that has ended is left alone"
    unfinished.remove("soon")
    unstarted.remove("soon")
    waited = expired(3.1)
    assert set(waited) == {"never"} and "3 s" in waited["never"], "one that has been started waits for nothing"
    assert expired(49.0) == {} and set(expired(60.0)) == {"later"} and expired(99.0) == {}


def test_both_times_over_at_once_are_told_once() -> None:
    door = Admission(Limits(10, 4, max_waiting_seconds=3))
    door.accepted(request("k", deadline=2.0), now=0.0)
    assert len(door.expired(10.0, lambda _: True, lambda _: True)) == 1


def test_ended_requests_leave_no_deadlines_behind() -> None:
    door = Admission(Limits(10, 4))
    for number in range(5000):
        door.accepted(request(f"k{number}", deadline=1e9 + number), now=0.0)
        door.expired(0.0, lambda key: key == "k7", lambda _: False)
    assert len(door._deadlines._heap) < 200
