"""Keeps the helper process that renders one template: starts it, asks it, replaces it when a limit ended it; knows no messages."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from typing import Any

from ..errors import ConfigError, EngineError, InvalidRequestError

MEMORY_BYTES = 2**30
"""Address space of the helper. Python with jinja takes 30 MB, a conversation of 5 MB some 60 MB more."""
MAX_CHARACTERS = 2**24
_BOOT = "import sys, json; sys.path[:] = json.loads(sys.stdin.readline()); from ernie_backend.text.template_worker import main; main()"


class TemplateProcess:
    """Renders `source` again and again. Not for several threads at once."""

    def __init__(self, source: str, cpu_seconds: float) -> None:
        """Starts the helper and compiles the template. `ConfigError` if it does not compile."""
        self._settings = {
            "source": source,
            "cpu_seconds": cpu_seconds,
            "memory_bytes": MEMORY_BYTES,
            "max_characters": MAX_CHARACTERS,
        }
        self._process: subprocess.Popen[bytes] | None = None
        self.variables: frozenset[str] = frozenset()
        """Names that the template reads and does not set itself."""
        self._start()

    def render(self, variables: dict[str, Any]) -> str:
        """The rendered text. `InvalidRequestError` with the template's words if it refuses, fails or runs into a limit."""
        line = json.dumps(variables)
        answer = self._ask(line)
        if answer is None and self._returncode() != -signal.SIGPROF:
            answer = self._ask(line)  # the helper had died before, from outside; a fresh one decides
        if answer is None:
            if self._returncode() == -signal.SIGPROF:
                raise InvalidRequestError(
                    f"The chat template did not finish within {self._settings['cpu_seconds']:g} s of CPU time for these messages.",
                    param="messages",
                )
            raise EngineError("The chat template's process ended while it rendered these messages. Try again.")
        return answer

    def close(self) -> None:
        """End the helper and wait for it."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()  # it holds nothing that would have to be put in order
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()

    def _start(self) -> None:
        self.close()
        self._process = subprocess.Popen([find_python(), "-I", "-c", _BOOT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, close_fds=True)
        answer = self._exchange(json.dumps(sys.path) + "\n" + json.dumps(self._settings))
        if answer is not None and "error" not in answer:
            self.variables = frozenset(answer["text"].split("\n"))
            return
        looped = self._returncode() == -signal.SIGPROF
        self.close()
        if answer is not None:
            raise ConfigError(f"The chat template does not compile: {answer['error']}.", param="chat_template")
        if looped:
            raise ConfigError("The chat template does not compile in time.", param="chat_template")
        raise ConfigError("The helper process for chat templates does not start; its own message stands above.", param="chat_template")

    def _ask(self, line: str) -> str | None:
        """The rendered text; None if the helper died over it."""
        if self._process is None or self._process.poll() is not None:
            self._start()
        answer = self._exchange(line)
        if answer is None:
            return None
        if "error" in answer:
            raise InvalidRequestError(f"The chat template refuses these messages: {answer['error'][:500]}", param="messages")
        return answer["text"]

    def _exchange(self, line: str) -> dict[str, str] | None:
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(line.encode("ascii") + b"\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except BrokenPipeError:
            answer = b""
        if not answer.endswith(b"\n"):
            process.wait()
            return None
        return json.loads(answer)

    def _returncode(self) -> int | None:
        return self._process.poll() if self._process is not None else None


def find_python() -> str:
    """A Python of this version. In Triton's stub `sys.executable` is the stub or empty: the folders of this installation come next."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    folders = [os.path.join(prefix, "bin", python) for prefix in (sys.prefix, sys.base_prefix) for python in (name, "python3")]
    own = [sys.executable] if os.path.basename(sys.executable or "").startswith("python") else []
    for path in [*own, *folders, shutil.which(name)]:
        if path and os.access(path, os.X_OK):
            return path
    raise ConfigError(
        f"No {name} was found for the chat template's helper process. Put the folder of {name} on PATH.", param="chat_template"
    )
