"""CPU time and memory of a server's processes, from /proc; starts and ends none."""

from __future__ import annotations

import contextlib
import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class ProcessUsage:
    pid: int
    cpu_seconds: float
    """Since its start."""
    resident_bytes: int
    peak_bytes: int
    """Since its start, or since `forget_peaks`."""


def usage_of(root: int) -> dict[str, ProcessUsage]:
    """The processes below `root` by what they are: `tritonserver`, `engine`, `postprocess`, `front end 1`, …"""
    found: dict[str, ProcessUsage] = {}
    names: Counter[str] = Counter()
    for pid in sorted(_descendants(root)):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            name = _name(pid)
            if name is None:
                continue
            names[name] += 1
            found[name if names[name] == 1 else f"{name} {names[name]}"] = _usage(pid)
    return found


def forget_peaks(root: int) -> None:
    """Peaks count from now on."""
    for pid in _descendants(root):
        with contextlib.suppress(OSError):
            Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")


def spent(before: Mapping[str, ProcessUsage], after: Mapping[str, ProcessUsage]) -> dict[str, float]:
    """CPU seconds between two looks."""
    return {name: usage.cpu_seconds - (before[name].cpu_seconds if name in before else 0.0) for name, usage in after.items()}


def _descendants(root: int) -> set[int]:
    parents: dict[int, int] = {}
    for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))):
        with contextlib.suppress(OSError):
            parents[pid] = int(_stat(pid)[1])
    found, frontier = set[int](), {root}
    while frontier:
        frontier = {pid for pid, parent in parents.items() if parent in frontier} - found
        found |= frontier
    return found


def _stat(pid: int) -> list[str]:
    """From the state letter on."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()


def _name(pid: int) -> str | None:
    """None: a helper that does not stand in a token's way."""
    command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    model = re.search(r"/ernie_(\w+)/\d+/model\.py", command)
    if "triton_python_backend_stub" in command and model:
        return model[1]
    if re.match(r"\S*/tritonserver ", command):
        return "tritonserver"
    if "ernie_openai" in command or "multiprocessing.spawn" in command:
        return "front end"
    return None


def _usage(pid: int) -> ProcessUsage:
    stat = _stat(pid)
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")

    def kilobytes(field: str) -> int:
        match = re.search(rf"^{field}:\s+(\d+) kB", status, re.MULTILINE)
        return int(match[1]) if match else 0

    return ProcessUsage(pid, (int(stat[11]) + int(stat[12])) / _TICKS, kilobytes("VmRSS") * 1024, kilobytes("VmHWM") * 1024)
