"""A front end that hangs before its first answer, at the first start (where tritonserver dies as well) and when it is restarted: a server
of its own, with less patience."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from ernie_backend.cli.background import RunningServer
from ernie_backend.cli.processes import is_running
from tests.e2e.faults import ask, processes, text, wait_for_line, wait_until_healthy
from tests.e2e.server import running_server

PATIENCE_SECONDS = 6
"""On two quiet cores a start takes one; if it takes longer than this on others, it is tried again."""
_HOOK = f"""
import os, signal, sys
from ernie_backend.cli import front_end_watch
from ernie_backend.cli.processes import children_of
front_end_watch.FIRST_ANSWER_SECONDS = {PATIENCE_SECONDS}
hanging = os.path.join(os.path.dirname(__file__), "hanging")
if "ernie_openai" in sys.orig_argv and os.path.exists(hanging):
    os.rename(hanging, hanging + "_was")
    for pid in children_of(os.getppid()):
        if open(hanging + "_was").read() == "not alone" and "bin/tritonserver" in open(f"/proc/{{pid}}/cmdline").read():
            os.kill(pid, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGSTOP)
"""


@pytest.fixture(scope="module")
def hook(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every Python looks into this folder when it starts. The next front end stops itself if there is a file `hanging`, and
    ends tritonserver before if that says so."""
    folder = tmp_path_factory.mktemp("hook")
    (folder / "sitecustomize.py").write_text(_HOOK)
    return folder


@pytest.fixture(scope="module")
def server(small_model: Path, hook: Path) -> Iterator[RunningServer]:
    (hook / "hanging").write_text("not alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(hook))
        with running_server(small_model, max_model_len=1024, max_num_seqs=4, max_restarts=20) as running:
            yield running


FAULT = f"The front end has not answered within {PATIENCE_SECONDS} s of its start; restarting it"


def test_the_first_one_is_started_again(server: RunningServer, hook: Path) -> None:
    assert (hook / "hanging_was").exists()
    for fault in ("tritonserver has ended (killed by SIGKILL); restarting", FAULT):
        assert any(fault in line for line in server.log), fault
    assert text(ask(server))


def test_one_that_was_restarted_is_started_again(server: RunningServer, hook: Path) -> None:
    """Whoever came meanwhile has waited, and it counts as a restart that did not help."""
    wait_for_line(server, "The front end is ready again after")
    in_vain, expected = f"{FAULT} in 1 s …", text(ask(server))
    before = sum(in_vain in line for line in server.log)
    (hook / "hanging_was").unlink()
    (hook / "hanging").touch()
    (front_end,) = processes(server, "-m ernie_openai")
    os.kill(front_end, signal.SIGKILL)
    wait_for_line(server, "The front end has ended (killed by SIGKILL); restarting it …")
    assert text(ask(server)) == expected
    assert (hook / "hanging_was").exists() and not is_running(front_end)
    wait_for_line(server, in_vain, before + 1)
    wait_until_healthy(server)
