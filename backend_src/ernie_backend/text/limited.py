"""The inside of a helper process: its limits of CPU time and memory, set by the operating system, and how it speaks; knows no task."""

from __future__ import annotations

import json
import resource
import signal
import sys


def limit_memory(memory_bytes: int) -> None:
    """Of the address space, for good; and make the process fit for `CpuLimit`."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # the parent's threads may block signals, and a child inherits that
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; this process ends with its input
    for limit, value in ((resource.RLIMIT_AS, memory_bytes), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(limit)[1]
        resource.setrlimit(limit, (value if hard == resource.RLIM_INFINITY else min(value, hard),) * 2)


class CpuLimit:
    """`with CpuLimit(seconds):` ends the process when what is within takes longer."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __enter__(self) -> None:
        signal.setitimer(signal.ITIMER_PROF, self._seconds)

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)


def send(answer: dict[str, str]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")  # ASCII: lone surrogates pass as \\udXXX
    sys.stdout.flush()
