"""Whether a running tritonserver and its models' processes still do their work, seen from outside; starts and ends nothing.

Triton 2.51 neither restarts a model's process nor says that it is gone: every model stays "ready", and requests under way wait for ever. So
the processes themselves are looked at (gone? stopped?), the signs of life that they give (`triton_adapter.heartbeat`), and Triton's answer.
All waiting is counted in looks, not in seconds: whoever was not scheduled himself must not take others for dead.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

from .probes import http_status
from .processes import children_of, is_running, state_of

_STOPPED_LOOKS = 30
"""Of a look every 0.1 s. Somebody who stops a process for a moment (a dump, a snapshot) is not punished."""
_SLOW_LOOK_SECONDS = 1.0
_SILENT_LOOKS = 20
"""Slow looks without a sign of life. The longest call that keeps Python's lock, a kernel being compiled, takes a few seconds."""
_UNREADY_LOOKS = 10
"""Slow looks, each of which waits 2 s for an answer."""
_ENDED = (None, "Z", "X")
_INSTANCE = re.compile(r"(\w+)_\d+_\d+")


class TritonWatch:
    """Made when tritonserver is ready: what runs and gives signs of life then is expected to go on."""

    def __init__(self, pid: int, signs_of_life: Path, host: str, http_port: int) -> None:
        self._pid = pid
        self._models = {child: _model_of(child) for child in children_of(pid)}
        self._stopped = dict.fromkeys((pid, *self._models), 0)
        self._address = (host, http_port)
        self._last_sign = {path: 0 for path in signs_of_life.iterdir()}
        self._silent = dict.fromkeys(self._last_sign, 0)
        self._unready = 0
        self._next_slow_look = 0.0

    def fault(self) -> str | None:
        """Why the server must be restarted, for log and clients; None while all is well. Ask every 0.1 s."""
        fault = self._processes()
        if fault is None and time.monotonic() >= self._next_slow_look:
            fault = self._signs_of_life() or self._readiness()
            self._next_slow_look = time.monotonic() + _SLOW_LOOK_SECONDS
        return fault

    def runs(self, model: str) -> bool:
        """Whether a process of this model is there."""
        return any(name == model and is_running(pid) for pid, name in self._models.items())

    def _processes(self) -> str | None:
        if state_of(self._pid) in _ENDED:
            return None  # how it ended its parent hears when its last thread is gone, and what happens to the others follows from it
        for pid in self._stopped:
            name = f"the process of {self._models[pid]}" if pid in self._models else "tritonserver"
            state = state_of(pid)
            if state in _ENDED:
                return f"{name} has died"
            self._stopped[pid] = self._stopped[pid] + 1 if state == "T" else 0
            if self._stopped[pid] > _STOPPED_LOOKS:
                return f"{name} has been stopped"
        return None

    def _signs_of_life(self) -> str | None:
        for path, before in self._last_sign.items():
            try:
                now, why = path.stat().st_mtime_ns, path.read_text(encoding="utf-8")
            except OSError:
                now, why = before, ""
            if why:
                return f"{_name_in(path.name)} has given up: {why}"
            self._silent[path] = self._silent[path] + 1 if now == before else 0
            self._last_sign[path] = now
            if self._silent[path] > _SILENT_LOOKS:
                return f"the process of {_name_in(path.name)} does not respond"
        return None

    def _readiness(self) -> str | None:
        status = http_status(*self._address, "/v2/health/ready")
        self._unready = 0 if status == 200 else self._unready + 1
        if self._unready > _UNREADY_LOOKS:
            return "tritonserver does not answer" if status is None else "tritonserver is not ready any more"
        return None


def all_alive(pid: int, signs_of_life: Path) -> bool:
    """Whether every model's process of a tritonserver that is starting has done its part: it gives signs of life."""
    return 0 < len(list(signs_of_life.iterdir())) == len(children_of(pid))


def _model_of(pid: int) -> str:
    """The model that a stub runs: its command line names the instance."""
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace").split("\0")
    except OSError:
        arguments = []
    return next((_name_in(argument) for argument in arguments if _INSTANCE.fullmatch(argument)), "a model")


def _name_in(instance: str) -> str:
    """`ernie_engine_0_0` → `ernie_engine`."""
    match = _INSTANCE.fullmatch(instance)
    return match[1] if match else instance
