"""When `serve` restarts what it has started, how often, and what the front end hears of it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import chain, repeat
from pathlib import Path
from threading import Event, Thread

import pytest

from ernie_backend.cli import front_end_watch, triton_watch
from ernie_backend.cli.processes import is_running, state_of
from ernie_backend.cli.restarts import WINDOW_SECONDS, Outage, RestartBudget
from ernie_backend.cli.triton_watch import TritonWatch
from ernie_openai.settings import FrontendSettings


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_one_restart_at_once_the_others_after_growing_pauses() -> None:
    budget = RestartBudget(9, Clock())
    assert [budget.next_delay() for _ in range(8)] == [0, 1, 2, 4, 8, 16, 16, 16]
    budget.helped()
    assert budget.next_delay() == 0


def test_restarts_that_help_are_limited_too_but_only_within_the_window() -> None:
    clock = Clock()
    budget = RestartBudget(2, clock)
    for _ in range(2):
        assert budget.next_delay() == 0
        budget.helped()
    assert budget.next_delay() is None
    clock.now += WINDOW_SECONDS + 1
    assert budget.next_delay() == 0


def test_no_restart_at_all() -> None:
    assert RestartBudget(0, Clock()).next_delay() is None


def test_an_outage_is_told_while_it_lasts(tmp_path: Path) -> None:
    outage = Outage(tmp_path / "outage")
    outage.end()
    outage.begin("The first reason.")
    outage.begin("The second.")
    assert outage.path.read_text() == "The second." and list(tmp_path.iterdir()) == [outage.path]
    outage.end()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("has_room_for_a_name", [True, False])
def test_an_outage_on_a_full_disk_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_room_for_a_name: bool) -> None:
    def write_text(path: Path, text: str, encoding: str) -> None:
        if has_room_for_a_name:
            path.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", write_text)
    outage = Outage(tmp_path / "outage")
    outage.begin("A reason.")
    assert list(tmp_path.iterdir()) == ([outage.path] if has_room_for_a_name else [])
    assert (FrontendSettings(triton_grpc="", triton_metrics="", outage_file=str(outage.path)).outage is not None) is has_room_for_a_name
    outage.end()
    assert not list(tmp_path.iterdir())


class Triton(HTTPServer):
    """Answers what tritonserver would when asked whether it is ready."""

    status = 200

    def __init__(self) -> None:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(server.status)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        Thread(target=self.serve_forever, daemon=True).start()


class Watched:
    """A shell in tritonserver's place, with two children in the place of models' processes, one of which gives signs of life."""

    def __init__(self, folder: Path) -> None:
        self.triton = Triton()
        self.process = subprocess.Popen(["sh", "-c", "sleep 1000 & sleep 1000 & wait"], start_new_session=True)
        self.sign = folder / "ernie_engine_0_0"
        self.sign.touch()
        while len(children := sorted(triton_watch.children_of(self.process.pid))) < 2:
            time.sleep(0.01)
        self.children = children
        self.watch = TritonWatch(self.process.pid, folder, "127.0.0.1", self.triton.server_port)

    def looks(self, count: int, *, alive: bool = True) -> str | None:
        """The first fault in so many looks, each of them a slow one."""
        for number in range(count):
            if alive:
                os.utime(self.sign, ns=(number, time.time_ns() + number))
            self.watch._next_slow_look = 0.0
            fault = self.watch.fault()
            if fault is not None:
                return fault
        return None

    def close(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.triton.shutdown()
        self.triton.server_close()


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    made = Watched(tmp_path)
    yield made
    made.close()


def test_what_works_is_left_alone(watched: Watched) -> None:
    assert watched.looks(60) is None


def test_what_runs_of_a_model(watched: Watched) -> None:
    assert watched.watch.runs("a model") and not watched.watch.runs("ernie_engine")
    for child in watched.children:
        assert watched.watch.runs("a model"), "one is left"
        os.kill(child, signal.SIGKILL)
        while is_running(child):
            time.sleep(0.01)
    assert not watched.watch.runs("a model")


def test_a_dead_process_is_seen_at_once(watched: Watched) -> None:
    os.kill(watched.children[1], signal.SIGKILL)
    while state_of(watched.children[1]) not in (None, "Z"):
        time.sleep(0.01)
    assert "has died" in (watched.looks(1) or "")


def test_how_tritonserver_ended_is_left_to_its_parent(watched: Watched) -> None:
    """Until the last of its threads is gone there is no exit status, and what it takes with it is no reason."""
    for pid in (watched.process.pid, watched.children[0]):
        os.kill(pid, signal.SIGKILL)
        while state_of(pid) not in (None, "Z"):
            time.sleep(0.01)
    assert watched.looks(1) is None


def test_a_process_that_stays_stopped(watched: Watched) -> None:
    os.kill(watched.children[0], signal.SIGSTOP)
    while state_of(watched.children[0]) != "T":
        time.sleep(0.01)
    assert watched.looks(triton_watch._STOPPED_LOOKS) is None
    os.kill(watched.children[0], signal.SIGCONT)
    while state_of(watched.children[0]) == "T":
        time.sleep(0.01)
    assert watched.looks(1) is None, "it was only for a moment"
    os.kill(watched.children[0], signal.SIGSTOP)
    while state_of(watched.children[0]) != "T":
        time.sleep(0.01)
    assert "has been stopped" in (watched.looks(triton_watch._STOPPED_LOOKS + 1) or "")


def test_a_process_without_a_sign_of_life(watched: Watched) -> None:
    watched.looks(3)
    assert watched.looks(triton_watch._SILENT_LOOKS, alive=False) is None
    assert watched.looks(1, alive=False) == "the process of ernie_engine does not respond"


def test_a_process_that_knows_that_it_cannot_go_on(watched: Watched) -> None:
    assert watched.looks(3) is None
    watched.sign.write_text("a step has taken longer than 60 s")
    assert watched.looks(1) == "ernie_engine has given up: a step has taken longer than 60 s"


def test_a_tritonserver_that_is_not_ready(watched: Watched) -> None:
    watched.triton.status = 400
    assert watched.looks(triton_watch._UNREADY_LOOKS) is None
    assert watched.looks(1) == "tritonserver is not ready any more"


def test_a_front_end_that_does_not_answer_four_times_in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front_end_watch, "LOOK_SECONDS", 0.0)
    looks, seen = chain([True, False, False, False, True], repeat(False)), list[str | None]()

    def answers() -> bool:
        seen.append(watch.fault)
        return next(looks)

    gate = Event()
    watch = front_end_watch.FrontEndWatch(lambda: gate.wait(10) and answers(), 60.0)
    gate.set()
    while watch.fault is None:
        time.sleep(0.01)
    watch.close()
    assert watch.fault == "The front end does not answer" and seen[:9] == [None] * 9


def test_a_front_end_that_starts_has_longer_to_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front_end_watch, "LOOK_SECONDS", 0.0)
    clock, looks, answering = Clock(), list[bool](), Event()

    def answers() -> bool:
        looks.append(answering.is_set())
        time.sleep(0.001)
        return looks[-1]

    watch = front_end_watch.FrontEndWatch(answers, 60.0, clock)
    clock.now += 60.0
    while len(looks) < 20:
        time.sleep(0.01)
    assert watch.fault is None, "however often it was asked"
    clock.now += 0.1
    assert watch.fault == "The front end has not answered within 60 s of its start"
    answering.set()
    while not (watch.fault is None and looks[-1]):
        time.sleep(0.01)
    clock.now += 3600.0
    assert watch.fault is None, "it has answered once"
    watch.close()


def test_many_workers_start_more_slowly() -> None:
    assert [front_end_watch.first_answer_seconds(workers) for workers in (1, 2, 64)] == [60, 65, 95]
