"""The processes that `serve` starts: what they print passes whatever becomes of our own output, and they end in turns."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from ernie_backend.cli.processes import Child, is_running


def child(script: str) -> Child:
    return Child("the child", [sys.executable, "-c", script], {}, lambda line: True)


def wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class _FullDisk:
    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    def flush(self) -> None: ...


def test_a_child_goes_on_when_its_lines_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else its pipe would fill, and it would stand still in the middle of a line."""
    monkeypatch.setattr(sys, "stderr", _FullDisk())
    talker = child("for i in range(5000): print('a line of an access log, like many others', i)")
    wait(lambda: talker.exit_code is not None)
    assert talker.stop(0, lambda: True) and talker.exit_code == 0
    assert talker.tail[-1].endswith("4999")


def test_the_last_word_before_the_end() -> None:
    """A second signal, to the whole group: a worker of the child hears it as well."""
    script = """
import os, signal, sys, time
heard = []
signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
is_worker = os.fork() == 0
print("worker" if is_worker else "parent", flush=True)
while len(heard) < (1 if is_worker else 2):
    time.sleep(0.01)
print("worker hears" if is_worker else "parent ends", flush=True)
if not is_worker:
    os.wait()
"""
    one = child(script)
    wait(lambda: len(one.tail) == 2)
    assert one.stop(60, lambda: False, last_seconds=59.5)
    assert sorted(one.tail)[1:] == ["parent ends", "worker", "worker hears"]


OF_A_FAMILY = """
import sys, time
from ernie_backend.cli.processes import Child
script = "import os, signal as s, time; s.signal(s.SIGTERM, s.SIG_IGN); os.fork(); print(os.getpid(), flush=True); time.sleep(1000)"
child = Child("the child", [sys.executable, "-c", script], {}, lambda line: True, dies_with_us=True)
while len(child.tail) < 2:
    time.sleep(0.01)
print(*child.tail, flush=True)
if sys.argv[1] == "ends it":
    child.stop(0, lambda: True)
time.sleep(1000)
"""


@pytest.mark.parametrize("way", ["is killed", "ends it"])
def test_a_childs_own_children_die_with_us(way: str) -> None:
    """Though they hear no SIGTERM and look at nobody."""
    parent = subprocess.Popen([sys.executable, "-c", OF_A_FAMILY, way], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    family = [int(pid) for pid in parent.stdout.readline().split()]
    try:
        assert len(family) == 2
        if way == "is killed":
            assert all(map(is_running, family))
            parent.kill()
        wait(lambda: not any(map(is_running, family)))
    finally:
        parent.kill()
        parent.wait()
        for pid in filter(is_running, family):
            os.kill(pid, signal.SIGKILL)
