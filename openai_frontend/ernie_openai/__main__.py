"""`python -m ernie_openai`: flags, sockets, worker processes and the end of them; knows no route.

SIGTERM or SIGINT: no new connections, answers under way get the grace time, exit code 0.
"""

from __future__ import annotations

import argparse
import functools
import signal
import sys
from collections.abc import Sequence

import uvicorn
from fastapi import FastAPI
from uvicorn.supervisors import Multiprocess

from .app import create_app
from .settings import DEFAULT_MAX_BODY_BYTES, FrontendSettings
from .triton_client import TritonClient


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ernie_openai", description="OpenAI-compatible front end of an ernie-triton server.")
    parser.add_argument("--host", default="0.0.0.0")
    parser.add_argument("--port", type=int, default=8180)
    parser.add_argument("--triton-grpc", default="127.0.0.1:8001", metavar="HOST:PORT")
    parser.add_argument("--triton-metrics", default="http://127.0.0.1:8002/metrics", metavar="URL")
    parser.add_argument("--model-name", default="ernie", help="shown where no served name was given")
    parser.add_argument(
        "--served-model-name", nargs="+", action="extend", default=[], help="names that requests may give; without it any name passes"
    )
    parser.add_argument("--api-key", nargs="+", action="extend", default=[], help="keys that may use /v1; without it none is asked for")
    parser.add_argument("--max-model-len", type=_positive, help="tokens; only shown in /v1/models")
    parser.add_argument("--max-body-bytes", type=_positive, default=DEFAULT_MAX_BODY_BYTES, help="larger requests get status 413")
    parser.add_argument("--workers", type=_positive, default=1, help="processes")
    parser.add_argument("--shutdown-grace-seconds", type=_positive, default=30, help="time for answers under way after SIGTERM")
    return parser


def _worker_app(settings: FrontendSettings) -> FastAPI:
    """Called in each worker, inside its event loop, which the gRPC channels belong to."""
    return create_app(settings, TritonClient(settings.triton_grpc, settings.triton_metrics))


def main(arguments: Sequence[str] | None = None) -> int:
    given = _parser().parse_args(arguments)
    settings = FrontendSettings(
        triton_grpc=given.triton_grpc,
        triton_metrics=given.triton_metrics,
        model_name=given.model_name,
        served_model_names=tuple(given.served_model_name),
        api_keys=tuple(given.api_key),
        max_model_len=given.max_model_len,
        max_body_bytes=given.max_body_bytes,
    )
    config = uvicorn.Config(
        functools.partial(_worker_app, settings),
        factory=True,
        host=given.host,
        port=given.port,
        workers=given.workers,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=given.shutdown_grace_seconds,
    )
    listening = config.bind_socket()
    if given.workers > 1:
        Multiprocess(config, sockets=[listening]).run()
        return 0
    # uvicorn raises the signal again when it has drained, for whoever handled it before; by default that ends the process with a
    # signal's status instead of 0.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    uvicorn.Server(config).run(sockets=[listening])
    return 0


if __name__ == "__main__":
    sys.exit(main())
