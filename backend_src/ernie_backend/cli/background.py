"""A server of our own for as long as a `with` block lasts: for `perf`, benchmarks and tests; talks to it only through its ready line."""

from __future__ import annotations

import contextlib
import json
import random
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError

_READY = re.compile(
    r"^Ready: (?P<model>.*?) · OpenAI (?P<openai_url>\S+)/v1 · Triton HTTP (?P<triton_url>\S+)"
    r" · gRPC (?P<triton_grpc>\S+) · metrics (?P<metrics_url>\S+)$"
)


_LEAST_PORT = 10_000
"""Of those that are drawn; below it lie those of well-known services."""


@dataclass
class RunningServer:
    """What the ready line says, and the process behind it."""

    process: subprocess.Popen[str]
    log: list[str]
    """Lines of its standard error so far."""
    model: str = ""
    openai_url: str = ""
    """Of the front end, without /v1."""
    triton_url: str = ""
    triton_grpc: str = ""
    """host:port"""
    metrics_url: str = ""
    exit_code: int | None = None
    """Set when the block has ended."""


@contextlib.contextmanager
def running_server(model: str | None, flags: Sequence[str] = (), *, stop_seconds: float = 60.0) -> Iterator[RunningServer]:
    """Serve `model` (None: what `serve` chooses) on free ports; yield when ready; SIGTERM at the end. `ConfigError` with its log if it
    never gets ready."""
    names = ("--port", "--triton-http-port", "--triton-grpc-port", "--metrics-port")
    ports = [text for name, port in zip(names, free_ports(len(names)), strict=True) if name not in flags for text in (name, str(port))]
    # -P: no module that lies where we are called is the server's; `ernie-triton`, the program, looks there for none either
    command = [sys.executable, "-P", "-m", "ernie_backend.cli", "serve", "--host", "127.0.0.1", *ports, *flags]
    command += [] if model is None else ["--model", model]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8")
    server = RunningServer(process, [])
    reader = threading.Thread(target=_collect, args=(server,), daemon=True)
    reader.start()
    try:
        assert process.stdout is not None
        addresses = next((m for line in process.stdout if (m := _addresses(line)) is not None), None)
        if addresses is None:
            process.wait()
            reader.join(5)
            raise ConfigError(f"The server did not start (exit code {process.returncode}):\n" + "".join(server.log[-20:]))
        for name, value in addresses.items():
            setattr(server, name, value)
        yield server
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            server.exit_code = process.wait(stop_seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            server.exit_code = process.wait()
        reader.join(5)


def _addresses(line: str) -> dict[str, str] | None:
    """What the line that says that all is ready tells; None: it is another one."""
    if line.startswith("{"):
        said = json.loads(line)
        names = ("model", "openai_url", "triton_url", "triton_grpc", "metrics_url")
        return {name: said[name].removesuffix("/v1") for name in names} if said["message"] == "Ready" else None
    match = _READY.match(line.rstrip())
    return None if match is None else match.groupdict()


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago, all different. They lie below those that the kernel gives to outgoing connections and to whoever
    asks for any: it would be these that somebody else has by the time that a server wants them."""
    draw = random.SystemRandom()  # not what a test has seeded: others that run beside it would draw the same
    with contextlib.ExitStack() as stack:
        found: list[int] = []
        while len(found) < count:
            port = draw.randrange(_LEAST_PORT, _first_port_of_the_kernel())
            with contextlib.suppress(OSError):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
                found.append(port)
        return found


def _first_port_of_the_kernel() -> int:
    return max(_LEAST_PORT + 1000, int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0]))


def _collect(server: RunningServer) -> None:
    assert server.process.stderr is not None
    for line in server.process.stderr:
        server.log.append(line)
