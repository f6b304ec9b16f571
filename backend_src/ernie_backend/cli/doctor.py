"""`ernie-triton doctor`: one line for each thing that serving needs, present or missing, and what to do; changes nothing."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError
from .commands import find_model_repository
from .gpu import gpu_names
from .perf import find_perf_analyzer
from .tritonserver import LIBPYTHON_NAME, PYTHON_VERSION, find_installation, find_libpython

_LEAST_SHARED_MEMORY_BYTES = 256 << 20
"""Each model process takes 1 MB and grows with its requests; Docker's default of 64 MB fails under load."""


@dataclass(frozen=True)
class Finding:
    """One line. `required`: serving cannot start without it."""

    subject: str
    ok: bool
    text: str
    required: bool = True

    def __str__(self) -> str:
        mark = "ok" if self.ok else "missing" if self.required else "absent"
        return f"{mark:8} {self.subject:18} {self.text}"


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("doctor", help="say what serving needs and whether it is there", allow_abbrev=False)
    parser.add_argument("--tritonserver", metavar="PATH", help="program or root folder to look at instead of the default")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the findings. 0: `serve` can start; 1: something required is missing."""
    findings = list(examine(args.tritonserver))
    for finding in findings:
        print(finding)
    return 1 if any(finding.required and not finding.ok for finding in findings) else 0


def examine(tritonserver: str | None = None) -> Iterator[Finding]:
    """Every finding, in the order in which `serve` would stumble over it."""
    yield Finding("python", (3, 11) <= sys.version_info[:2] <= (3, 12), f"{platform.python_version()} in {sys.prefix} (3.11 and 3.12 work)")
    yield _try("tritonserver", lambda: str(find_installation(tritonserver).program))
    yield _try("stub", lambda: f"{find_installation(tritonserver).stub} for Python {PYTHON_VERSION}")
    libpython = find_libpython()
    yield Finding("libpython", libpython is not None, str(libpython or f"{LIBPYTHON_NAME}: apt-get install libpython{PYTHON_VERSION}"))
    yield _try("model repository", lambda: str(find_model_repository(None)))
    yield _numpy()
    yield _framework()
    yield _package("front end", "fastapi", "pip install 'ernie-triton[frontend]'")
    yield _media()
    gpus = gpu_names()
    yield Finding("GPU", bool(gpus), ", ".join(gpus) or "none (the CPU engine is used)", required=False)
    yield _shared_memory()
    yield _try("perf_analyzer", lambda: str(find_perf_analyzer(None)[0]), required=False)
    yield from (
        _port(name, port) for name, port in (("OpenAI", 8180), ("Triton HTTP", 8000), ("Triton gRPC", 8001), ("Triton metrics", 8002))
    )


def _try(subject: str, find: Callable[[], str], *, required: bool = True) -> Finding:
    try:
        return Finding(subject, True, find(), required)
    except ConfigError as error:
        return Finding(subject, False, error.message, required)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _package(subject: str, package: str, advice: str) -> Finding:
    version = _version(package)
    return Finding(subject, version is not None, f"{package} {version}" if version else advice)


def _numpy() -> Finding:
    version = _version("numpy")
    if version is None or int(version.split(".")[0]) >= 2:
        return Finding(
            "numpy", False, f"{version or 'none'}: pip install 'numpy>=1.26,<2' (numpy 2 gives the Python backend empty tensors)"
        )
    return Finding("numpy", True, version)


def _framework() -> Finding:
    for package in ("paddlepaddle-gpu", "paddlepaddle"):
        version = _version(package)
        if version is not None:
            return Finding("framework", True, f"{package} {version}")
    return Finding("framework", False, "pip install 'ernie-triton[cpu]' (or [gpu])")


def _media() -> Finding:
    versions = {package: _version(package) for package in ("pillow", "av", "httpcore2")}
    missing = [package for package, version in versions.items() if version is None]
    found = ", ".join(f"{package} {version}" for package, version in versions.items())
    text = f"no {', '.join(missing)}: pip install 'ernie-triton[media]', for models that take images" if missing else found
    return Finding("images and videos", not missing, text, required=False)


def _shared_memory() -> Finding:
    folder = Path("/dev/shm")
    if not os.access(folder, os.W_OK):
        return Finding("shared memory", False, "/dev/shm is not writable: the Python backend needs it")
    size = shutil.disk_usage(folder)
    text = f"/dev/shm has {size.free / 2**20:.0f} MiB free of {size.total / 2**20:.0f} MiB"
    if size.free < _LEAST_SHARED_MEMORY_BYTES:
        return Finding("shared memory", False, f"{text}: give the container more (docker run --shm-size 1g)")
    return Finding("shared memory", True, text)


def _port(name: str, port: int) -> Finding:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        used = probe.connect_ex(("127.0.0.1", port)) == 0
    return Finding(f"port {port}", not used, f"in use: give {name} another one" if used else f"free ({name})", required=False)
