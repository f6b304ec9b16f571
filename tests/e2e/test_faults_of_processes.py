"""A step that never ends, and the front end's worker processes: another server than `test_faults.py`'s, with two workers."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from ernie_backend.cli.background import RunningServer
from ernie_backend.cli.processes import children_of
from tests.e2e.faults import (
    RECOVERY_SECONDS,
    HealthLog,
    HungThread,
    Neighbour,
    ask,
    command_line,
    holdings,
    neighbours,
    processes,
    text,
    wait_for_line,
    wait_until_healthy,
    wait_until_it_holds,
)
from tests.e2e.observe import wait_until_idle
from tests.e2e.server import running_server


@pytest.fixture(scope="module")
def two_workers(small_model: Path) -> Iterator[RunningServer]:
    with running_server(small_model, max_model_len=4096, max_num_seqs=8, workers=2, step_timeout=5) as running:
        yield running


def test_a_step_that_never_ends(two_workers: RunningServer) -> None:
    """Only the engine's thread is stopped. Everyone is told, and a new engine is there."""
    expected = text(ask(two_workers))
    (engine,) = processes(two_workers, "ernie_engine/1")
    health = HealthLog(two_workers)
    with neighbours(two_workers, 3900) as both:
        hung = HungThread(engine, "ernie-engine")
        if not hung.works:
            pytest.skip("needs the right to trace processes")
        endings = {each.end() for each in both}
    assert endings <= {"error", "unavailable"}, endings
    deadline = time.monotonic() + RECOVERY_SECONDS
    while processes(two_workers, "ernie_engine/1") == [engine]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    wait_until_healthy(two_workers)
    health.end()
    assert text(ask(two_workers)) == expected
    assert health.statuses == [200, 503, 200], health.seen
    # The latter if the thread was stopped while it held Python's lock, so that no other saw the former.
    why = " ".join(message for _, message, _ in health.seen)
    assert "has taken longer than 5 s" in why or "does not respond" in why


def test_a_killed_worker_is_replaced(two_workers: RunningServer) -> None:
    """The other one goes on answering, and a new one takes its place."""
    wait_until_idle(two_workers)
    held = holdings(two_workers)
    (parent,) = processes(two_workers, "-m ernie_openai")
    workers = _workers(parent)
    assert len(workers) == 2
    crowd = [Neighbour(two_workers, f"user {i}", 400, openai=True) for i in range(8)]
    kept = Neighbour(two_workers, "kept", 400, openai=False)
    for each in (*crowd, kept):
        each.wait_until_begun()
    os.kill(workers[0], signal.SIGKILL)
    endings = [each.end() for each in crowd]
    assert all(ending == "length" or "RemoteProtocolError" in ending or "ReadError" in ending for ending in endings), endings
    assert kept.end() == "length"
    deadline = time.monotonic() + 60
    while workers[0] in _workers(parent) or len(_workers(parent)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    wait_for_line(two_workers, "The worker process is ready again after")
    # On a busy machine it is looked at before the kernel has ended it: then it "did not respond".
    assert any("A worker process " in line and "starting another" in line for line in two_workers.log)
    assert _answers(two_workers, 20), "whichever worker is asked"
    wait_until_idle(two_workers)
    wait_until_it_holds(two_workers, held)


def test_the_workers_parent_is_replaced_with_its_workers(two_workers: RunningServer) -> None:
    """The orphans would keep the port."""
    (parent,) = processes(two_workers, "-m ernie_openai")
    before = {parent, *_workers(parent)}
    os.kill(parent, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while not (now := processes(two_workers, "-m ernie_openai")) or now == [parent]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    wait_for_line(two_workers, "The front end is ready again after")
    wait_until_healthy(two_workers)
    assert _answers(two_workers, 20)
    assert not {pid for pid in before if Path(f"/proc/{pid}").exists()}


def _workers(parent: int) -> list[int]:
    """uvicorn's worker processes; their helper that tracks semaphores is none."""
    return sorted(pid for pid in children_of(parent) if "spawn_main" in command_line(pid))


def _answers(server: RunningServer, count: int) -> bool:
    """Each over a connection of its own. A worker that is just starting takes a connection only when it is there."""
    with contextlib.suppress(httpx.TransportError):
        return all(ask(server, max_tokens=1).status_code == 200 for _ in range(count))
    return False
