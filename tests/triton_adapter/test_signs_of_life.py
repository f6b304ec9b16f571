"""What a model's process does so that others see that it lives, and what the engine's does when it does not answer any more."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ernie_backend.config import HEARTBEATS, EngineConfig
from ernie_backend.core.outputs import SchedulerOutput
from ernie_backend.errors import UnavailableError, from_wire
from ernie_backend.triton_adapter import engine_watch, heartbeat
from ernie_backend.triton_adapter.engine import EngineModel
from ernie_backend.triton_adapter.heartbeat import Heartbeat
from tests.fakes.pb_utils import FakePbUtils
from tests.triton_adapter.test_engine_model import ARGS, events, sealed, tiny_folder, wait

__all__ = ["tiny_folder"]

INSTANCE = {"model_instance_name": "ernie_engine_0_0"}


_BEATING = """
import sys, threading
from ernie_backend.config import EngineConfig
from ernie_backend.triton_adapter import heartbeat
heartbeat.INTERVAL_SECONDS = 0.05
beating = heartbeat.Heartbeat(EngineConfig("none", runtime_dir=sys.argv[1]), {"model_instance_name": "ernie_engine_0_0"})
print("here", flush=True)
threading.Event().wait()
"""


def test_a_process_ends_with_its_tritonserver(tmp_path: Path) -> None:
    """Its threads may be waiting for Triton without a limit: here the main one does."""
    (tmp_path / HEARTBEATS).mkdir()
    server = "import subprocess, sys; subprocess.run([sys.executable, '-c', *sys.argv[1:]])"
    command = [sys.executable, "-c", server, _BEATING, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "here\n"
        process.kill()
        assert process.stdout.read() == ""  # comes to its end with the last process that holds it


def test_a_sign_of_life_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "INTERVAL_SECONDS", 0.01)
    (tmp_path / HEARTBEATS).mkdir()
    beating = Heartbeat(EngineConfig("none", runtime_dir=str(tmp_path)), INSTANCE)
    file = tmp_path / HEARTBEATS / "ernie_engine_0_0"
    seen = {file.stat().st_mtime_ns}
    wait(lambda: seen.add(file.stat().st_mtime_ns) or len(seen) > 3, "the file is touched")
    beating.close()
    last = file.stat().st_mtime_ns
    time.sleep(0.05)
    assert file.stat().st_mtime_ns == last and not file.read_text()
    beating.give_up("the reason")
    assert file.read_text() == "the reason"


@pytest.mark.parametrize("folder", [None, "without the folder for it"])
def test_nobody_to_see_it(tmp_path: Path, folder: str | None) -> None:
    before = threading.active_count()
    Heartbeat(EngineConfig("none", runtime_dir=folder and str(tmp_path)), {}).close()
    assert threading.active_count() == before and not list(tmp_path.iterdir())


@pytest.fixture
def model(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[EngineModel]:
    """One whose process does not end, but only notes that it would, and which waits with that until its watch is closed. Its steps may take
    as long as they like, or as the parameter says."""
    file = tmp_path / "engine.json"
    fields = {"model": str(tiny_folder), "max_model_len": 4000, "step_timeout_seconds": getattr(request, "param", 3600)}
    file.write_text(json.dumps(fields), encoding="utf-8")
    monkeypatch.setenv("ERNIE_CONFIG", str(file))
    monkeypatch.setattr(engine_watch, "INTERVAL_SECONDS", 0.1)
    monkeypatch.setattr(engine_watch, "LAST_WORDS_SECONDS", 3600)
    made = EngineModel(FakePbUtils())
    made.initialize(ARGS)
    yield made
    made.finalize()


def watch_for_the_end(model: EngineModel) -> tuple[threading.Event, threading.Event]:
    """What happens when its watch has told everyone that it gives up, and then when its process would end."""
    given_up, ended = threading.Event(), threading.Event()
    model._watch._give_up = lambda why: given_up.set()
    model._watch._end_process = ended.set
    return given_up, ended


@pytest.mark.parametrize("model", [1], indirect=True)
def test_a_hung_step_ends_the_process_and_tells_everyone(model: EngineModel) -> None:
    (given_up, ended), gate = watch_for_the_end(model), threading.Event()
    runner: Any = model._serving.engine._core.runner
    launch = runner.launch

    def hang(output: SchedulerOutput) -> Any:
        gate.wait(120)
        return launch(output)

    assert model.is_ready()
    runner.launch = hang
    running, several = sealed("a" * 32, max_tokens=50), sealed("b" * 32, n=3)
    model.execute([running, several])
    assert given_up.wait(60) and not model.is_ready()
    wait(lambda: running.sender.is_closed and several.sender.is_closed, "they are told")
    for each in (running, several):
        assert isinstance(from_wire(events(each)[-1]["error"]), UnavailableError)
    assert not ended.is_set(), "time is left for that"
    model._watch.close()
    assert ended.wait(60), "the process ends"
    gate.set()


def test_a_device_that_computes_nothing_any_more(model: EngineModel) -> None:
    """As after an illegal access on a GPU: every step fails, so the process must end, or every request would fail for ever."""
    given_up, ended = watch_for_the_end(model)
    runner: Any = model._serving.engine._core.runner

    def fail(output: SchedulerOutput) -> Any:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    runner.launch = fail
    each = sealed("c" * 32)
    model.execute([each])
    wait(lambda: each.sender.is_closed, "it is told")
    assert events(each)[-1]["finish_reason"] == "error"
    assert given_up.wait(60) and not model.is_ready() and not ended.is_set()
    model._watch.close()
    assert ended.wait(60), "the process ends"


def test_one_step_that_fails_ends_nothing_else(model: EngineModel) -> None:
    given_up, _ = watch_for_the_end(model)
    runner: Any = model._serving.engine._core.runner
    launch = runner.launch

    def fail_once(output: SchedulerOutput) -> Any:
        runner.launch = launch
        raise MemoryError

    runner.launch = fail_once
    failed, later = sealed("d" * 32), sealed("e" * 32)
    model.execute([failed])
    wait(lambda: failed.sender.is_closed, "it is told")
    model.execute([later])
    wait(lambda: later.sender.is_closed, "the next is answered")
    assert [events(each)[-1]["finish_reason"] for each in (failed, later)] == ["error", "length"]
    wait(lambda: model._serving.engine.stats.num_blocks_used == 0, "nothing is left")
    assert model.is_ready() and not given_up.is_set()
