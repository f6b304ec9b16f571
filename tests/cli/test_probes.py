"""What `serve` asks a running server, against a small HTTP server with scripted answers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from ernie_backend.cli.background import free_ports
from ernie_backend.cli.probes import http_status


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/there" else 404)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def port() -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_probes(port: int) -> None:
    assert http_status("127.0.0.1", port, "/there") == 200
    assert http_status("127.0.0.1", port, "/absent") == 404


def test_nobody_there_is_no_answer() -> None:
    (port,) = free_ports(1)
    assert http_status("127.0.0.1", port, "/") is None
