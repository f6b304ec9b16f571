"""What `serve` says when its ports are taken: by a server that runs, by one that stops, by something else."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from ernie_backend.cli.background import free_ports
from ernie_backend.cli.flags import ServeOptions
from ernie_backend.cli.ports import check_ports, hold
from ernie_backend.errors import ConfigError
from ernie_openai.server import listen
from tests.cli.test_flags import read


def options() -> ServeOptions:
    ports = dict(zip(("port", "triton_http_port", "triton_grpc_port", "metrics_port"), free_ports(4), strict=True))
    return replace(read("--model m --host 127.0.0.1"), **ports)


@contextmanager
def answering(port: int, status: int) -> Iterator[None]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(("status", "words"), [(200, "A server that is ready answers there"), (503, "it stops, which takes up to its")])
def test_who_is_there(status: int, words: str) -> None:
    given = options()
    with answering(given.port, status), pytest.raises(ConfigError) as caught:
        check_ports(given)
    assert caught.value.message.startswith(f"--port {given.port} cannot be used on 127.0.0.1: Address already in use.")
    assert words in caught.value.message


def test_a_stopping_server_is_recognised_by_another_of_its_ports() -> None:
    given = options()
    with (
        answering(given.triton_http_port, 400),
        socket.create_server(("127.0.0.1", given.metrics_port)),
        pytest.raises(ConfigError, match="it stops"),
    ):
        check_ports(given)


def test_something_else() -> None:
    given = options()
    with socket.create_server(("127.0.0.1", given.triton_grpc_port)), pytest.raises(ConfigError, match="Stop what listens there, or give"):
        check_ports(given)
    with pytest.raises(ConfigError, match="Give another address or port"):
        check_ports(replace(given, host="192.0.2.1"))
    check_ports(given)


def test_a_port_is_held_before_anybody_listens_there() -> None:
    """While the model loads: a second server must not get as far as to share it, nor a program that asks as politely as servers do."""
    given = options()
    with hold(given, "--port") as held:
        with pytest.raises(ConfigError, match="Address already in use"):
            check_ports(given)
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with pytest.raises(OSError, match="in use"):
                other.bind(held.getsockname())


def test_a_port_is_free_again_though_connections_linger_there() -> None:
    given = options()
    with hold(given, "--port") as listening:
        listen(listening)
        with socket.create_connection(listening.getsockname()) as client:
            listening.accept()[0].close()  # the server's side closes first, and lingers
            assert client.recv(1) == b""
    hold(given, "--port").close()
