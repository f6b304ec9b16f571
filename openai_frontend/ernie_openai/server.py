"""Listens, runs the worker processes and ends them; knows no flag and no route.

SIGTERM or SIGINT: no new connections, answers under way get the grace time, then `run` returns.
"""

from __future__ import annotations

import functools
import gc
import signal
import socket

import uvicorn
from fastapi import FastAPI
from uvicorn.supervisors import Multiprocess

from .app import create_app
from .settings import FrontendSettings
from .triton_client import TritonClient

_END_SIGNALS = (signal.SIGTERM, signal.SIGINT)

_SEND_BUFFER_BYTES = 128 * 1024
"""Of a connection, in the kernel (Linux takes it twice). Else it grows to megabytes, and a slow client is noticed late."""
_UNREAD_SECONDS = 300
"""A client that has taken nothing for so long, while there was something for it, is cut off."""


def worker_app(settings: FrontendSettings) -> FastAPI:
    """Called in each worker, inside its event loop, which the gRPC channels belong to."""
    app = create_app(settings, TritonClient(settings.triton_grpc, settings.triton_metrics))
    gc.collect()
    gc.freeze()  # what stays for ever is looked at no more: full collections come sooner, and hold up the streams for less
    return app


def _bound_what_waits(listening: socket.socket) -> None:
    """Every connection inherits it: the kernel keeps little of what its client does not read, and not for ever."""
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNREAD_SECONDS * 1000)


def run(settings: FrontendSettings, *, host: str, port: int, workers: int, grace_seconds: int) -> None:
    """Serves until a signal ends it. Exits with a status above 0 if the address cannot be had."""
    config = uvicorn.Config(
        functools.partial(worker_app, settings),
        factory=True,
        host=host,
        port=port,
        workers=workers,
        log_level="warning",
        access_log=False,
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=grace_seconds,
    )
    listening = config.bind_socket()
    _bound_what_waits(listening)
    if workers > 1:
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
