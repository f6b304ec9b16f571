"""A server for tests: our own `serve` on free ports, and the proof that it leaves nothing behind."""

from __future__ import annotations

import contextlib
import fcntl
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ernie_backend.cli.background import RunningServer
from ernie_backend.cli.background import running_server as _running_server
from ernie_backend.cli.processes import children_of, is_running

STOP_SECONDS = 120.0
"""On two quiet cores 5; this is only to end the test of a machine that is busy with ten others."""


@contextlib.contextmanager
def running_server(model_dir: str | Path | None, **flags: object) -> Iterator[RunningServer]:
    """Serve `model_dir`, or without it the demo model; `max_num_seqs=4` is `--max-num-seqs 4`, a tuple repeats the flag.

    Afterwards: exit code 0, no process, folder or shared memory left."""
    pairs = [(name, value) for name, given in flags.items() for value in (given if isinstance(given, tuple) else (given,))]
    arguments = [part for name, value in pairs for part in (f"--{name.replace('_', '-')}", str(value))]
    with _running_server(None if model_dir is None else str(model_dir), arguments, stop_seconds=STOP_SECONDS) as server:
        processes = descendants(server.process.pid)
        yield server
        processes |= descendants(server.process.pid)
    log = "".join(server.log[-30:])
    assert server.exit_code == 0, f"serve ended with {server.exit_code}:\n{log}"
    assert not wait_until_gone(processes, 10), f"processes outlived serve:\n{log}"
    left = leftovers()
    assert not left, f"serve has left {left}:\n{log}"


def leftovers() -> list[str]:
    """Private folders and shared memory of dead servers; those of a living one, whose lock is held, do not count, nor do those whose folder
    lies where another process's do (tests/conftest.py)."""
    folders = Path(tempfile.gettempdir())
    regions = list(Path("/dev/shm").glob("ernie-triton-*"))  # first: a server's go before its folder does
    own = list(folders.glob("ernie-triton-*"))
    elsewhere = [*Path("/tmp").glob("ernie-triton-*"), *Path("/tmp").glob("ernie-tests-*/ernie-triton-*")]
    not_ours = {folder.name for folder in elsewhere} - {folder.name for folder in own}
    living = {folder.name for folder in own if _is_locked(folder / "lock")}
    locks = [region for region in regions if region.name.endswith("-lock")]
    living |= {lock.name.removesuffix("-lock") for lock in locks if _is_locked(lock)}  # wherever their folders are
    found = [*own, *(region for region in regions if region.exists())]
    return [str(path) for path in found if "-".join(path.name.split("-")[:3]) not in living | not_ours]


def _is_locked(path: Path) -> bool:
    try:
        with path.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def descendants(pid: int) -> set[int]:
    """Every process below `pid`."""
    found: set[int] = set()
    frontier = {pid}
    while frontier:
        frontier = set().union(*map(children_of, frontier)) - found
        found |= frontier
    return found


def wait_until_gone(pids: set[int], seconds: float) -> set[int]:
    """Those that still run after `seconds`."""
    deadline = time.monotonic() + seconds
    while (alive := set(filter(is_running, pids))) and time.monotonic() < deadline:
        time.sleep(0.1)
    return alive
