"""Listens, runs the worker processes and ends them; knows no flag and no route.

SIGTERM or SIGINT: new requests are refused (`draining.py`), answers under way get the grace time, then the port closes and `run` returns.
"""

from __future__ import annotations

import functools
import gc
import logging
import resource
import signal
import socket
import ssl
import tempfile

import uvicorn
from fastapi import FastAPI

from ernie_backend import log_format
from ernie_backend.tracing import Tracer, check_installed, traces_url

from .accept_errors import AcceptErrors
from .app import create_app
from .draining import END_SIGNALS, Drain
from .http_metrics import shared_by_workers
from .http_protocol import GuardedProtocol
from .observing import access_log
from .settings import FrontendSettings, TlsFiles
from .triton_client import TritonClient
from .waiting_connections import BACKLOG
from .workers import ANSWER_SECONDS, Workers, end_with_parent

PROCESS_NAME = "frontend"
_LAST_SECONDS = 1
"""Behind the grace time: for those cut off to be told so."""

_SEND_BUFFER_BYTES = 128 * 1024
"""Of a connection, in the kernel (Linux takes it twice). Else it grows to megabytes, and a slow client is noticed late."""
_UNREAD_SECONDS = 300
"""A client that has taken nothing for so long, while there was something for it, is cut off."""


def worker_app(settings: FrontendSettings, grace_seconds: float) -> FastAPI:
    """Called in each worker, inside its event loop, which the gRPC channels belong to; the HTTP server handles signals already."""
    set_up_logs(settings)
    endpoint = settings.observability.otlp_traces_endpoint
    tracer = None
    if endpoint is not None:
        check_installed()
        tracer = Tracer(traces_url(endpoint), PROCESS_NAME)
    drain = Drain()
    drain.handle_signals(grace_seconds)
    end_with_parent()
    client = TritonClient(settings.triton_grpc, settings.triton_metrics, outage=lambda: settings.outage)
    app = create_app(settings, client, tracer, drain)
    gc.collect()
    gc.freeze()  # what stays for ever is looked at no more: full collections come sooner, and hold up the streams for less
    return app


def set_up_logs(settings: FrontendSettings) -> None:
    """The form of this process's lines; those of the requests are told, others from warnings on."""
    log_format.install(settings.observability.log_format, PROCESS_NAME)
    logging.getLogger("asyncio").addFilter(AcceptErrors())
    access_log.setLevel(logging.INFO)


def listen(listening: socket.socket) -> None:
    """On a bound socket, before any worker runs: from here on nobody else can have its address. What is set every connection inherits: the
    kernel keeps little of what its client does not read, and not for ever, and sends at once what it has (asyncio asks for that only on
    sockets that it makes itself, and a small piece would wait 40 ms for the last one's receipt); and the next server need not wait until it
    has faded."""
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNREAD_SECONDS * 1000)
    listening.listen(BACKLOG)


def run(
    settings: FrontendSettings,
    *,
    host: str,
    port: int,
    workers: int,
    grace_seconds: int,
    tls: TlsFiles | None = None,
    listening: socket.socket | None = None,
) -> None:
    """Serves until a signal ends it. Exits with a status above 0 if the address cannot be had. `listening`: in place of host and port."""
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))  # each connection is one; the usual 1024 are soon taken
    set_up_logs(settings)
    config = uvicorn.Config(
        functools.partial(worker_app, settings, grace_seconds),
        factory=True,
        host=host,
        port=port,
        workers=workers,
        log_level="warning",
        log_config=None,  # its lines go the way of all others
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        http=GuardedProtocol,
        ws="none",
        ssl_certfile=tls.certificate if tls else None,
        ssl_keyfile=tls.key if tls else None,
        ssl_ca_certs=tls.client_authorities if tls else None,
        ssl_cert_reqs=ssl.CERT_REQUIRED if tls and tls.client_authorities else ssl.CERT_NONE,
        timeout_graceful_shutdown=_LAST_SECONDS,
        timeout_worker_healthcheck=ANSWER_SECONDS,
    )
    listening = listening or config.bind_socket()
    listen(listening)
    if workers > 1:
        with tempfile.TemporaryDirectory(prefix="ernie-openai-metrics-") as folder, shared_by_workers(folder):
            Workers(config, sockets=[listening]).run()
    else:
        server = uvicorn.Server(config)
        # uvicorn raises the signal again when it has drained, for whoever handled it before; by default that would end the process
        # with a signal's status instead of 0.
        for number in END_SIGNALS:
            signal.signal(number, server.handle_exit)
        server.run(sockets=[listening])
    for number in END_SIGNALS:  # one more must not spoil the exit status while Python winds up
        signal.signal(number, signal.SIG_IGN)
