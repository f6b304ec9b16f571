"""A signal before `serve` has begun: the process ends at once and quietly. What it sends itself when a certain module is looked for."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from ernie_backend.cli.__main__ import main

SCRIPT = """
import os, sys
class Sender:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            os.kill(os.getpid(), int(sys.argv[2]))
sys.meta_path.insert(0, Sender())
from ernie_backend.cli.__main__ import main
sys.exit(main(sys.argv[3:]))
"""


def run(module: str, number: signal.Signals, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SCRIPT, module, str(int(number)), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("module", ["argparse", "numpy", "fastapi"])  # the last: when flags and model folder have been read
def test_serve_ends_quietly_before_it_has_begun(module: str, number: signal.Signals, status: int) -> None:
    ended = run(module, number, "serve", "--host", "127.0.0.1", "--tritonserver", "nowhere")
    said = [line for line in ended.stderr.splitlines() if not line.startswith("ernie-triton: ")]
    assert (ended.returncode, said, ended.stdout) == (status, [], "")


def test_other_commands_only_while_they_are_imported(tmp_path: object) -> None:
    flags = ("random-checkpoint", "--like", "ERNIE-4.5-0.3B", "--no-weights", "--out", f"{tmp_path}/model")
    assert (found := run("numpy", signal.SIGINT, *flags)).returncode == 130 and not found.stderr
    begun = run("ernie_backend.checkpoint_writer.chat_templates", signal.SIGINT, *flags)
    assert "KeyboardInterrupt" in begun.stderr, "Python's own: what has been begun is put in order on the way out"


def test_whoever_calls_it_keeps_its_handlers(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    for command in ("serve", "doctor"):
        with pytest.raises(SystemExit):
            main([command, "extra"])
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_what_is_ignored_stays_ignored() -> None:
    """As of a job in the background of a shell without job control."""
    command = [sys.executable, "-c", SCRIPT, "numpy", str(int(signal.SIGINT)), "serve", "--tritonserver", "nowhere"]
    ended = subprocess.run(["sh", "-c", 'trap "" INT; exec "$@"', "sh", *command], capture_output=True, timeout=60, check=False)
    assert ended.returncode == 2
