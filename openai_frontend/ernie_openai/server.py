"""Listens, runs the worker processes and ends them; knows no flag and no route.

SIGTERM or SIGINT: no new connections, answers under way get the grace time, then `run` returns.
"""

from __future__ import annotations

import functools
import logging
import signal
import tempfile

import uvicorn
from fastapi import FastAPI
from uvicorn.supervisors import Multiprocess

from ernie_backend import log_format
from ernie_backend.tracing import Tracer, check_installed, traces_url

from .app import create_app
from .http_metrics import shared_by_workers
from .observing import access_log
from .settings import FrontendSettings
from .triton_client import TritonClient

PROCESS_NAME = "frontend"
_END_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def worker_app(settings: FrontendSettings) -> FastAPI:
    """Called in each worker, inside its event loop, which the gRPC channels belong to."""
    set_up_logs(settings)
    endpoint = settings.observability.otlp_traces_endpoint
    tracer = None
    if endpoint is not None:
        check_installed()
        tracer = Tracer(traces_url(endpoint), PROCESS_NAME)
    return create_app(settings, TritonClient(settings.triton_grpc, settings.triton_metrics), tracer)


def set_up_logs(settings: FrontendSettings) -> None:
    """The form of this process's lines; those of the requests are told, others from warnings on."""
    log_format.install(settings.observability.log_format, PROCESS_NAME)
    access_log.setLevel(logging.INFO)


def run(settings: FrontendSettings, *, host: str, port: int, workers: int, grace_seconds: int) -> None:
    """Serves until a signal ends it. Exits with a status above 0 if the address cannot be had."""
    set_up_logs(settings)
    config = uvicorn.Config(
        functools.partial(worker_app, settings),
        factory=True,
        host=host,
        port=port,
        workers=workers,
        log_level="warning",
        log_config=None,  # its lines go the way of all others
        access_log=False,
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=grace_seconds,
    )
    listening = config.bind_socket()
    if workers > 1:
        with tempfile.TemporaryDirectory(prefix="ernie-openai-metrics-") as folder, shared_by_workers(folder):
            Multiprocess(config, sockets=[listening]).run()
    else:
        server = uvicorn.Server(config)
        # uvicorn raises the signal again when it has drained, for whoever handled it before; by default that would end the process
        # with a signal's status instead of 0.
        for number in _END_SIGNALS:
            signal.signal(number, server.handle_exit)
        server.run(sockets=[listening])
    for number in _END_SIGNALS:  # one more must not spoil the exit status while Python winds up
        signal.signal(number, signal.SIG_IGN)
