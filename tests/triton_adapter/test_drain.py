"""Told to drain, the engine's process takes the ensemble away, and only then."""

from __future__ import annotations

import threading
import time

from ernie_backend.triton_adapter.drain import DrainWatch
from tests.fakes.pb_utils import FakePbUtils


def test_the_ensemble_is_unloaded_when_the_engine_drains() -> None:
    pb_utils, draining = FakePbUtils(), threading.Event()
    watch = DrainWatch(pb_utils, draining)
    assert not pb_utils.unloaded
    draining.set()
    deadline = time.monotonic() + 5
    while not pb_utils.unloaded:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    watch.close()
    assert pb_utils.unloaded == ["ernie"] and not watch._thread.is_alive()


def test_an_end_without_a_drain_unloads_nothing() -> None:
    pb_utils = FakePbUtils()
    watch = DrainWatch(pb_utils, threading.Event())
    watch.close()
    assert not pb_utils.unloaded and not watch._thread.is_alive()


def test_a_triton_that_cannot_is_no_reason_to_fail() -> None:
    class Fixed(FakePbUtils):
        def unload_model(self, model_name: str) -> None:
            raise RuntimeError("explicit model load / unload is not allowed")

    draining = threading.Event()
    draining.set()
    watch = DrainWatch(Fixed(), draining)
    watch._thread.join(5)
    assert not watch._thread.is_alive()
    watch.close()
