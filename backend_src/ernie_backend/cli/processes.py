"""Child processes that never outlive us: own process group, output through a filter, an orderly end or a hard one; knows no Triton."""

from __future__ import annotations

import collections
import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from .death_pact import DeathPact

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
_POLL_SECONDS = 0.05
_TAIL_LINES = 200


def adopt_orphans() -> None:
    """Make grandchildren ours when their parent dies, so that `reap_all` leaves none behind, not even without an init process."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _raise_stack_limit(wanted: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    possible = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < possible:
        resource.setrlimit(resource.RLIMIT_STACK, (possible, hard))


class Child:
    """A running child. Start it from the main thread: the kernel ties its life (`PR_SET_PDEATHSIG`) to the thread that made it."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        keep: Callable[[str], bool],
        inherited_files: Sequence[int] = (),
        stack_bytes: int | None = None,
        rewrite: Callable[[str], str] = str,
        folder: Path | None = None,
        dies_with_us: bool = False,
    ) -> None:
        """`folder`: where it runs. `dies_with_us`: if we die without ending it, it is killed with all that it has started; else it gets
        SIGTERM then. `rewrite`: what to show of a line that is kept.
        `stack_bytes`: raise the stack limit of its threads to this, as far as we may."""
        self.name = name
        self.tail: collections.deque[str] = collections.deque(maxlen=_TAIL_LINES)
        """The last lines it wrote, those too that `keep` refused."""
        self._keep = keep
        self._rewrite = rewrite
        self._pact = DeathPact() if dies_with_us else None
        parent, libc = os.getpid(), ctypes.CDLL(None)
        orphaned = signal.SIGKILL if dies_with_us else signal.SIGTERM

        def before_exec() -> None:
            libc.prctl(_PR_SET_PDEATHSIG, orphaned, 0, 0, 0)
            if os.getppid() != parent:  # died between fork and prctl
                os._exit(1)
            if stack_bytes is not None:
                _raise_stack_limit(stack_bytes)

        self._process = subprocess.Popen(
            command,
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C must reach us alone: we decide who stops first
            pass_fds=(*inherited_files, *(() if self._pact is None else (self._pact.reading_end,))),
            preexec_fn=before_exec,
        )
        if self._pact is not None:
            self._pact.bind(self._process.pid)
        self._reader = threading.Thread(target=self._read, name=f"{name} output", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; −N if signal N ended it."""
        return self._process.poll()

    def stop(self, seconds: float, hurry: Callable[[], bool], last_seconds: float = 0.0) -> bool:
        """SIGTERM, then wait; SIGKILL for the whole group after `seconds` or when `hurry()` turns true. True iff it ended by itself.
        `last_seconds` before that the whole group gets SIGTERM once more, if they are given: to say a last word."""
        if self.exit_code is None:
            self._process.terminate()
        deadline = time.monotonic() + seconds
        self._await(deadline - last_seconds, hurry)
        if last_seconds and self.exit_code is None and not hurry():
            self._signal(signal.SIGTERM)
            self._await(deadline, hurry)
        orderly = self.exit_code is not None
        self.kill()
        self._process.wait()
        if self._pact is not None:
            self._pact.close()
        self._reader.join(timeout=1)
        return orderly

    def _await(self, deadline: float, hurry: Callable[[], bool]) -> None:
        while self.exit_code is None and time.monotonic() < deadline and not hurry():
            time.sleep(_POLL_SECONDS)

    def kill(self) -> None:
        """SIGKILL to its group: itself, and what it started if it did not clean up."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        """To its group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def _read(self) -> None:
        """Pass its output on line by line. A progress bar ends its lines with a carriage return; that counts as an end of line."""
        assert self._process.stdout is not None
        pending = b""
        descriptor = self._process.stdout.fileno()
        while piece := os.read(descriptor, 65536):
            pending += piece
            while (end := _end_of_line(pending)) > 0:
                self._pass_on(pending[:end])
                pending = pending[end:]
        if pending:
            self._pass_on(pending)

    def _pass_on(self, raw: bytes) -> None:
        line = raw.decode("utf-8", errors="replace")
        if line.strip():
            self.tail.append(line.rstrip())
        if self._keep(line):
            with contextlib.suppress(OSError, ValueError):  # a full disk, or nobody reads: a child whose output is not read stands still
                sys.stderr.write(self._rewrite(line))
                sys.stderr.flush()


def _end_of_line(text: bytes) -> int:
    ends = [position for position in (text.find(b"\n"), text.find(b"\r")) if position >= 0]
    return min(ends) + 1 if ends else 0


def children_of(pid: int) -> set[int]:
    """Its direct children, from /proc."""
    return {child for child in map(int, filter(str.isdecimal, os.listdir("/proc"))) if (_stat(child) or ("", 0))[1] == pid}


def is_running(pid: int) -> bool:
    """Whether the process exists and has not ended (a zombie has)."""
    return state_of(pid) not in (None, "Z")


def state_of(pid: int) -> str | None:
    """The kernel's letter for what the process does: `Z` ended, `T` stopped by a signal …; None if there is none."""
    stat = _stat(pid)
    return None if stat is None else stat[0]


def _stat(pid: int) -> tuple[str, int] | None:
    """State letter and parent of a process; None if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], int(fields[1])


def reap_adopted(ours: Collection[int], seconds: float = 2.0) -> None:
    """Collect adopted grandchildren, which have been killed; not the children `ours`, whose exit codes others want."""
    deadline = time.monotonic() + seconds
    while (adopted := children_of(os.getpid()).difference(ours)) and time.monotonic() < deadline:
        for pid in adopted:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(_POLL_SECONDS)


def reap_all(seconds: float = 2.0) -> None:
    """Collect every child and adopted grandchild that has ended, waiting a little for those that are about to."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            if time.monotonic() > deadline:
                return
            time.sleep(_POLL_SECONDS)
