"""Threads shared by hosts: none has all of them, each of its items comes to its turn, and the end leaves nothing waiting."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, Future

import pytest

from ernie_backend.media.lane import Lane


def test_one_host_never_has_all_threads() -> None:
    lane, release, begun = Lane("lane", 4, 100), threading.Event(), threading.Semaphore(0)

    def hang() -> str:
        begun.release()
        assert release.wait(30)
        return "hung"

    hung = [lane.submit("slow", hang) for _ in range(6)]
    for _ in range(3):
        assert begun.acquire(timeout=30)
    assert [lane.submit(host, lambda: "quick").result(30) for host in ("fast", "other", None)] == ["quick"] * 3
    assert not begun.acquire(blocking=False) and hung[4].cancel(), "the fourth waits for its own host, not for a thread"
    release.set()
    assert [future.result(30) for future in hung if not future.cancelled()] == ["hung"] * 5
    assert lane.submit("slow", lambda: "again").result(30) == "again"
    lane.close()


def test_errors_give_the_place_back() -> None:
    lane, order = Lane("lane", 1, 100), list[int]()

    def fail(number: int) -> None:
        order.append(number)
        raise ValueError(number)

    futures: list[Future[None]] = [lane.submit("a", lambda i=i: fail(i)) for i in range(50)]  # type: ignore[misc]
    assert [str(future.exception(30)) for future in futures] == [str(i) for i in range(50)] and order == list(range(50))
    lane.close()


def test_the_end_cancels_what_has_not_begun() -> None:
    lane, begun, release = Lane("lane", 1, 100), threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        assert release.wait(30)

    running = lane.submit("a", hang)
    assert begun.wait(30)
    others = [lane.submit(host, lambda: None) for host in ("a", "b", None, "a", "b")]
    closing = threading.Thread(target=lane.close)
    closing.start()
    for future in others:
        with pytest.raises(CancelledError):
            future.result(30)
    release.set()
    closing.join(30)
    assert running.result(30) is None and lane.submit("a", lambda: None).cancelled()
