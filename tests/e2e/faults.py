"""Breaking a server from outside, with what an operating system offers, and watching what its clients see meanwhile."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import json
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx

from ernie_backend.benchmark.path_bench import write_repository
from ernie_backend.cli.background import RunningServer
from ernie_backend.cli.commands import find_model_repository
from ernie_backend.cli.processes import state_of
from tests.e2e.kserve import Stream
from tests.e2e.server import descendants

RECOVERY_SECONDS = 150.0
"""On two quiet cores 4 to 8; this is only to end the test of a machine that is busy with ten others."""
GREEDY = {"temperature": 0, "ignore_eos": True}

_CLONE_NEWNS, _MS_REC, _MS_PRIVATE = 0x20000, 0x4000, 0x40000  # linux/sched.h, linux/mount.h
_PTRACE_SEIZE, _PTRACE_INTERRUPT, _WALL = 0x4206, 0x4207, 0x40000000  # linux/ptrace.h, linux/wait.h
_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)


# Processes -----------------------------------------------------------------------------------------------------------------------


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def processes(server: RunningServer, part: str) -> list[int]:
    """Those whose program, script or module is called so, the oldest first: `ernie_engine/1`, `bin/tritonserver`, `-m ernie_openai`."""
    return sorted(pid for pid in descendants(server.process.pid) if part in " ".join(command_line(pid).split(" ")[:3]))


def helpers(server: RunningServer, worker: str) -> list[int]:
    """Preprocess's helper processes of one kind, such as `template_worker`."""
    return sorted(pid for pid in descendants(server.process.pid) if f".{worker} import main" in command_line(pid))


class HungThread:
    """Stops one thread of a process and no other, as a device that never answers would; it can only be killed then.

    Threads that a library starts from it bear its name, too: it is the oldest."""

    def __init__(self, pid: int, name: str) -> None:
        tasks = [int(task) for task in os.listdir(f"/proc/{pid}/task")]
        self._thread_id = min(task for task in tasks if Path(f"/proc/{pid}/task/{task}/comm").read_text().strip() == name)
        self._stopped, self.works = threading.Event(), False
        self._tracer = threading.Thread(target=self._trace, daemon=True)
        self._tracer.start()
        assert self._stopped.wait(10)

    def _trace(self) -> None:
        """All by one thread: the kernel knows the tracer by it. It must see the end, or the process stays a zombie."""
        self.works = _libc.ptrace(_PTRACE_SEIZE, self._thread_id, None, None) == 0
        if self.works:
            _libc.ptrace(_PTRACE_INTERRUPT, self._thread_id, None, None)
            os.waitpid(self._thread_id, _WALL)
        self._stopped.set()
        with contextlib.suppress(ChildProcessError):
            while self.works and os.WIFSTOPPED(os.waitpid(self._thread_id, _WALL)[1]):
                pass


_BREAKABLE_ENGINE = '''"""The engine step, which loses its device when there is a certain file."""

import os

import triton_python_backend_utils as pb_utils

from ernie_backend.build import build_core
from ernie_backend.triton_adapter.engine import EngineModel

FILE = {file!r}


class Breakable:
    """The runner. A lost device computes nothing any more in the process that had it; a new process gets a new one."""

    def __init__(self, runner):
        self._runner, self._is_lost = runner, False

    def __getattr__(self, name):
        return getattr(self._runner, name)

    def launch(self, output):
        if os.path.exists(FILE):
            os.unlink(FILE)
            self._is_lost = True
        self._check()
        return self._runner.launch(output)

    def recover(self):
        self._check()
        self._runner.recover()

    def _check(self):
        if self._is_lost:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")


def make_core(config, model_config):
    core = build_core(config, model_config)
    core.runner = Breakable(core.runner)
    return core


class TritonPythonModel(EngineModel):
    def __init__(self):
        super().__init__(pb_utils, make_core)
'''


class BreakableEngine:
    """A model repository of ours, but for an engine that a test can break in its own process."""

    def __init__(self, folder: Path) -> None:
        self.repository = folder / "repository"
        self._file = folder / "lost"
        self.repository.mkdir()
        write_repository(self.repository, find_model_repository(None), _BREAKABLE_ENGINE.format(file=str(self._file)))

    def lose_device(self) -> None:
        """In its next step: it fails, and so does every other one, upon which the engine's thread ends."""
        self._file.touch()


# Shared memory -------------------------------------------------------------------------------------------------------------------


def in_private_shared_memory(start: Callable[[], RunningServer], megabytes: int) -> RunningServer:
    """What `start` starts gets a /dev/shm of its own. `PermissionError` if we may not do that."""
    done: queue.SimpleQueue[RunningServer | BaseException] = queue.SimpleQueue()

    def run() -> None:  # a thread of its own: only it, and what it starts, moves into the new namespace
        steps = (
            lambda: _libc.unshare(_CLONE_NEWNS),
            lambda: _libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None),
            lambda: _libc.mount(b"none", b"/dev/shm", b"tmpfs", 0, f"size={megabytes}m".encode()),
        )
        try:
            if any(step() != 0 for step in steps):
                raise PermissionError(os.strerror(ctypes.get_errno()))
            done.put(start())
        except BaseException as error:
            done.put(error)

    threading.Thread(target=run).start()
    result = done.get()
    if isinstance(result, BaseException):
        raise result
    return result


def shared_memory(server: RunningServer) -> Path:
    """The server's own view of /dev/shm."""
    return Path("/proc", str(server.process.pid), "root", "dev", "shm")


@contextlib.contextmanager
def full_shared_memory(server: RunningServer) -> Iterator[None]:
    """Not a page is left in the server's /dev/shm, which must be private."""
    filler = shared_memory(server) / "filler"
    try:
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        yield
    finally:
        filler.unlink()


# Clients -------------------------------------------------------------------------------------------------------------------------


class Neighbour(threading.Thread):
    """A streaming client; how its answer ended stands in `ending`: `length`, an error's code, or what went wrong without one."""

    def __init__(self, server: RunningServer, prompt: str, max_tokens: int, *, openai: bool) -> None:
        super().__init__(daemon=True)
        self.text, self.ending = "", ""
        self._server, self._prompt, self._max_tokens, self._openai = server, prompt, max_tokens, openai
        self._begun = threading.Event()
        self.start()

    def run(self) -> None:
        try:
            (self._over_openai if self._openai else self._over_grpc)()
        except Exception as error:
            told = "StatusCode.UNAVAILABLE" in str(error) or "is not healthy" in str(error)
            self.ending = "unavailable" if told else f"{type(error).__name__}: {error}"
        self._begun.set()

    def wait_until_begun(self) -> None:
        assert self._begun.wait(60) and self.ending in ("", "length"), self.ending

    def end(self) -> str:
        """Waits for it. No client may be left hanging."""
        self.join(90)
        assert not self.is_alive(), "a client is left without an answer"
        return self.ending

    def _over_openai(self) -> None:
        body = {"prompt": self._prompt, "max_tokens": self._max_tokens, "stream": True, **GREEDY}
        with httpx.stream("POST", f"{self._server.openai_url}/v1/completions", json=body, timeout=80) as response:
            assert response.status_code == 200, response.read()
            for line in response.iter_lines():
                if not line.startswith("data: {"):
                    continue
                told = json.loads(line[6:])
                if "error" in told:
                    self.ending = told["error"]["code"]
                    return
                self.text += told["choices"][0]["text"]
                self.ending = told["choices"][0]["finish_reason"] or ""
                self._begun.set()

    def _over_grpc(self) -> None:
        stream = Stream(self._server.triton_grpc, text_input=self._prompt, max_tokens=self._max_tokens, sampling_parameters=GREEDY)
        final = False
        while not final:
            outputs, final = stream.next(80)
            self.text += outputs["text_output"]
            self.ending = outputs["finish_reason"]
            self._begun.set()
        stream.client.stop_stream()


@contextlib.contextmanager
def neighbours(server: RunningServer, max_tokens: int) -> Iterator[list[Neighbour]]:
    """One client on each face, whose answers have begun; at the end both have ended."""
    both = [Neighbour(server, f"neighbour {openai}", max_tokens, openai=openai) for openai in (True, False)]
    for each in both:
        each.wait_until_begun()
    yield both
    for each in both:
        each.end()


def ask(server: RunningServer, **fields: object) -> httpx.Response:
    body = {"prompt": "one and the same", "max_tokens": 12, **GREEDY, **fields}
    return httpx.post(f"{server.openai_url}/v1/completions", json=body, timeout=80)


def text(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    answer: str = response.json()["choices"][0]["text"]
    return answer


class HealthLog(threading.Thread):
    """What /health says, from now until `end`."""

    def __init__(self, server: RunningServer) -> None:
        super().__init__(daemon=True)
        self.seen: list[tuple[int, str, str | None]] = []
        """(status, error's message, Retry-After), each time that it changes; status 0: nobody answered."""
        self._url = f"{server.openai_url}/health"
        self._begun, self._ending = threading.Event(), threading.Event()
        self.start()
        assert self._begun.wait(60)

    def run(self) -> None:
        ending = False
        while not ending:
            ending = self._ending.wait(0.05)  # one more look behind the end
            try:
                response = httpx.get(self._url, timeout=20)
                message = response.json()["error"]["message"] if response.content else ""
                now: tuple[int, str, str | None] = (response.status_code, message, response.headers.get("retry-after"))
            except httpx.TransportError:
                now = (0, "", None)
            if self.seen[-1:] != [now]:
                self.seen.append(now)
            self._begun.set()

    def end(self) -> None:
        self._ending.set()
        self.join(30)

    @property
    def statuses(self) -> list[int]:
        """Without repetitions."""
        return [status for status, _ in itertools.groupby(status for status, _, _ in self.seen)]


def wait_until_healthy(server: RunningServer) -> None:
    deadline = time.monotonic() + RECOVERY_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{server.openai_url}/health", timeout=20).status_code == 200:
                return
        time.sleep(0.1)
    raise AssertionError("the server did not recover:\n" + "".join(server.log[-30:]))


def wait_for_line(server: RunningServer, part: str, count: int = 1) -> None:
    """Until its log has so many lines with this in them."""
    deadline = time.monotonic() + RECOVERY_SECONDS
    while sum(part in line for line in server.log) < count:
        assert time.monotonic() < deadline, f"{part!r} is not said:\n" + "".join(server.log[-30:])
        time.sleep(0.05)


# What must not grow --------------------------------------------------------------------------------------------------------------


_LOOKS = 8
"""At the open files, of which the fewest count: `serve` asks and reads all the time, and has one more for a moment."""


def holdings(server: RunningServer) -> dict[str, int]:
    """What a server holds of the machine: processes of each kind, regions of shared memory, open files of those that outlive a restart."""
    kinds = ("bin/tritonserver", "ernie_engine/1", "ernie_preprocess/1", "ernie_postprocess/1", "-m ernie_openai")
    found = {kind: len(processes(server, kind)) for kind in kinds}
    found["zombies"] = sum(state_of(pid) == "Z" for pid in descendants(server.process.pid))
    prefix = f"{_private_folder(server).name}-"
    found["regions of shared memory"] = sum(region.name.startswith(prefix) for region in shared_memory(server).iterdir())
    looks = []
    for _ in range(_LOOKS):
        looks.append(len(os.listdir(f"/proc/{server.process.pid}/fd")))
        time.sleep(0.05)
    found["files of serve"] = min(looks)
    return found


def wait_until_it_holds(server: RunningServer, held: dict[str, int]) -> None:
    deadline = time.monotonic() + RECOVERY_SECONDS
    while (found := holdings(server)) != held:
        assert time.monotonic() < deadline, f"{found} instead of {held}"


def _private_folder(server: RunningServer) -> Path:
    """From the front end's command line: its outage file lies there."""
    arguments = command_line(processes(server, "-m ernie_openai")[0]).split(" ")
    return Path(arguments[arguments.index("--outage-file") + 1]).parent


def relay_socket(server: RunningServer) -> Path:
    return _private_folder(server) / "relay.sock"
