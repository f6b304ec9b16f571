"""Told to drain, the engine's process takes the ensemble away, and says when no answer is under way any more; and only then."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from ernie_backend.config import DRAINED
from ernie_backend.triton_adapter.drain import DrainWatch
from tests.fakes.pb_utils import FakePbUtils


def test_the_ensemble_is_unloaded_when_the_engine_drains_and_the_last_answer_is_told(tmp_path: Path) -> None:
    pb_utils, draining, idle = FakePbUtils(), threading.Event(), threading.Event()
    asked = threading.Semaphore(0)

    def is_idle() -> bool:
        asked.release()
        return idle.is_set()

    watch = DrainWatch(pb_utils, draining, is_idle, str(tmp_path))
    assert not pb_utils.unloaded
    draining.set()
    deadline = time.monotonic() + 120
    while not pb_utils.unloaded:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert all(asked.acquire(timeout=60) for _ in range(3)) and not (tmp_path / DRAINED).exists(), "answers are under way"
    idle.set()
    watch._thread.join(60)
    assert (tmp_path / DRAINED).exists()
    watch.close()
    assert pb_utils.unloaded == ["ernie"] and not watch._thread.is_alive()


def test_an_end_without_a_drain_unloads_nothing(tmp_path: Path) -> None:
    pb_utils = FakePbUtils()
    watch = DrainWatch(pb_utils, threading.Event(), lambda: True, str(tmp_path))
    watch.close()
    assert not pb_utils.unloaded and not watch._thread.is_alive() and not (tmp_path / DRAINED).exists()


def test_an_end_before_the_last_answer_does_not_wait_for_it(tmp_path: Path) -> None:
    draining, asked = threading.Event(), threading.Event()
    draining.set()
    watch = DrainWatch(FakePbUtils(), draining, lambda: asked.set() or False, str(tmp_path))
    assert asked.wait(60)
    watch.close()
    assert not watch._thread.is_alive() and not (tmp_path / DRAINED).exists()


def test_a_triton_that_cannot_is_no_reason_to_fail(tmp_path: Path) -> None:
    class Fixed(FakePbUtils):
        def unload_model(self, model_name: str) -> None:
            raise RuntimeError("explicit model load / unload is not allowed")

    draining = threading.Event()
    draining.set()
    watch = DrainWatch(Fixed(), draining, lambda: True, str(tmp_path))
    watch._thread.join(60)
    assert not watch._thread.is_alive() and (tmp_path / DRAINED).exists()
    watch.close()
