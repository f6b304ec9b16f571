"""The two command lines that `serve` runs, and their environments; starts nothing."""

from __future__ import annotations

import math
import os
import secrets
import sys
from pathlib import Path

from ..errors import ConfigError
from .flags import ServeOptions
from .private_folder import PrivateFolder
from .tritonserver import Installation, assemble_backends, server_environment

DRAIN_MARGIN_SECONDS = 5
"""After the grace time the engine aborts what still runs; so long may the last responses take to leave."""

TRITON_EXIT_SECONDS = 5
"""tritonserver's patience. It waits for idle connections as if they were requests, so it is told to go only when nothing runs."""

_ADMINISTRATION = "shared-memory,model-repository,logging,trace"
"""API groups that read or change the server itself; nobody gets them (triton 2.51 is older than the fixes of its shared-memory API)."""


def find_model_repository(given: str | None) -> Path:
    """The folder given, else `model_repository/` of the checkout that this package is installed from."""
    folder = Path(given).expanduser() if given else Path(__file__).resolve().parents[3] / "model_repository"
    if (folder / "ernie" / "config.pbtxt").is_file():
        return folder.resolve()
    where = "--model-repository: " if given else "The model repository is not beside the package. Give --model-repository DIR: "
    raise ConfigError(f"{where}{str(folder)!r} holds no ernie/config.pbtxt.", param="model_repository")


def triton_command(options: ServeOptions, installation: Installation, folder: PrivateFolder, *, on_gpu: bool) -> list[str]:
    """tritonserver on loopback, all models loaded at the start and changed by no client, administration locked away."""
    backends = assemble_backends(installation, folder.path / "backends")
    # Everyone on this machine can read the secret off the process list; the line end is what no HTTP or gRPC header can hold.
    nobody = f"{_ADMINISTRATION}:ernie-administration={secrets.token_hex(16)}\n"
    command = {
        "model-repository": find_model_repository(options.model_repository),
        "backend-directory": backends,
        "backend-config": f"python,shm-region-prefix-name={folder.shared_memory_prefix}",
        "disable-auto-complete-config": None,
        "model-control-mode": "explicit",  # for the engine's own use: see triton_adapter/drain.py
        "load-model": "*",
        "allow-sagemaker": "false",  # both are ways around the restrictions below, and an environment variable opens the second
        "allow-vertex-ai": "false",
        "exit-timeout-secs": TRITON_EXIT_SECONDS,
        "http-address": options.triton_host,
        "http-port": options.triton_http_port,
        "grpc-address": options.triton_host,
        "grpc-port": options.triton_grpc_port,
        "metrics-address": options.triton_host,
        "metrics-port": options.metrics_port,
        "http-restricted-api": nobody,
        "grpc-restricted-protocol": nobody,
        "log-info": "true" if options.verbose else "false",
    }
    command |= options.observability.triton_flags
    if not on_gpu:
        command |= {"allow-gpu-metrics": "false", "pinned-memory-pool-byte-size": 0}
    flags = [f"--{name}" if value is None else f"--{name}={value}" for name, value in command.items()]
    return [str(installation.program), *flags]


def triton_environment(options: ServeOptions, installation: Installation, folder: PrivateFolder, config_file: Path) -> dict[str, str]:
    threads = options.engine.cpu_threads or len(os.sched_getaffinity(0))
    return server_environment(installation, options.security.environment(os.environ, with_keys=False)) | {
        "ERNIE_CONFIG": str(config_file),
        "OMP_NUM_THREADS": str(threads),
        "TMPDIR": str(folder.path),  # what a killed stub leaves behind goes with the folder
    }


def front_end_command(options: ServeOptions, max_model_len: int, outage_file: Path, listening: int) -> list[str]:
    """`listening`: the number of the socket that it inherits."""
    command = [sys.executable, "-m", "ernie_openai", "--host", options.host, "--port", str(options.port)]
    command += ["--listening-socket", str(listening)]
    command += ["--triton-grpc", f"{client_host(options.triton_host)}:{options.triton_grpc_port}"]
    command += ["--triton-metrics", f"http://{client_host(options.triton_host)}:{options.metrics_port}/metrics"]
    command += ["--model-name", options.model_name, "--max-model-len", str(max_model_len), "--workers", str(options.workers)]
    command += ["--max-concurrency", str(options.engine.max_concurrency)]
    command += ["--shutdown-grace-seconds", str(math.ceil(options.shutdown_grace_seconds) + DRAIN_MARGIN_SECONDS)]
    command += ["--outage-file", str(outage_file)]
    command += ["--max-pending-bytes", str(options.max_pending_bytes)]
    command += options.observability.front_end_arguments
    if options.served_model_name is not None:
        command.append(f"--served-model-name={options.served_model_name}")
    return command + options.security.front_end_arguments()


def client_host(host: str) -> str:
    """Where a client on this machine reaches a server that listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
