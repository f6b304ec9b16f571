"""A helper process that answers lines of JSON under hard limits: starts it, asks it, replaces it when a limit ended it; knows no task.

Nothing inside a Python process can stop another's endless loop or allocation for sure; the operating system can (`limited.py`).
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import time
from signal import SIGPROF
from typing import Any

from ..abort_signal import NEVER, AbortSignal
from ..errors import ConfigError

_BOOT = "import sys, json; sys.path[:] = json.loads(sys.stdin.readline()); from ernie_backend.text.{} import main; main()"


WALL_SECONDS = 20.0
"""For one answer. Limits of CPU time end what computes for too long; this ends what does not compute at all, such as a stopped process."""


_PIPE_BYTES = select.PIPE_BUF
"""So many fit into a pipe that takes anything: writing them does not wait."""


class HelperProcess:
    """Runs `main` of a module beside this one. Not for several threads at once."""

    def __init__(self, module: str, settings: dict[str, Any]) -> None:
        """`settings` is its first line; it must answer that, too."""
        self._module = module
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def ran_out_of_time(self) -> bool:
        """Whether its limit of CPU time ended it."""
        return self._process is not None and self._process.poll() == -SIGPROF

    def start(self) -> dict[str, str] | None:
        """A fresh process; its answer to the settings, None if it died over them."""
        self.close()
        command = [find_python(), "-I", "-c", _BOOT.format(self._module)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, close_fds=True)
        return self.ask(json.dumps(sys.path) + "\n" + json.dumps(self._settings))

    def ask(self, line: str, signal: AbortSignal = NEVER) -> dict[str, str] | None:
        """The answer to a line; None if the process died over it, as it does when `signal` is set."""
        process = self._process
        assert process is not None
        try:
            with signal.ending(process.kill):
                answer = _exchange(process, line.encode("ascii") + b"\n")
        except BrokenPipeError:
            answer = b""
        if not answer.endswith(b"\n"):
            process.wait()
            return None
        return json.loads(answer)

    def close(self) -> None:
        """End the process and wait for it."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()  # it holds nothing that would have to be put in order
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):  # what it has not read any more
                    stream.close()


def _exchange(process: subprocess.Popen[bytes], line: bytes) -> bytes:
    """Its answer to the line, which ends with a newline unless the process ended before. Kills it after WALL_SECONDS. (A thread for that
    would take longer to start than most answers.) Raises BrokenPipeError."""
    assert process.stdin is not None and process.stdout is not None
    to_process, from_process = process.stdin.fileno(), process.stdout.fileno()
    poll = select.poll()
    poll.register(from_process, select.POLLIN)
    poll.register(to_process, select.POLLOUT)
    unsent, answer = memoryview(line), bytearray()
    deadline = time.monotonic() + WALL_SECONDS
    while not answer.endswith(b"\n"):
        ready = dict(poll.poll(max(0.0, deadline - time.monotonic()) * 1e3))
        if not ready:
            process.kill()
            break
        if to_process in ready:
            unsent = unsent[os.write(to_process, unsent[:_PIPE_BYTES]) :]
            if not unsent:
                poll.unregister(to_process)
        if from_process in ready:
            piece = os.read(from_process, 2**16)
            if not piece:
                break
            answer += piece
    return bytes(answer)


def find_python() -> str:
    """A Python of this version. In Triton's stub `sys.executable` is the stub or empty: the folders of this installation come next."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    folders = [os.path.join(prefix, "bin", python) for prefix in (sys.prefix, sys.base_prefix) for python in (name, "python3")]
    own = [sys.executable] if os.path.basename(sys.executable or "").startswith("python") else []
    for path in [*own, *folders, shutil.which(name)]:
        if path and os.access(path, os.X_OK):
            return path
    raise ConfigError(
        f"No {name} was found for the helper processes of preprocess. Put the folder of {name} on PATH.", param="chat_template"
    )
