"""What `serve` asks a running server, against a small HTTP server with scripted answers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from ernie_backend.cli.background import free_ports
from ernie_backend.cli.probes import http_status, sequences_under_way

METRICS = """# HELP ernie_sequences_running Sequences in the running batch
# TYPE ernie_sequences_running gauge
ernie_sequences_running{model="ernie_engine",version="1"} 3
ernie_sequences_waiting 2
ernie_sequences_finished_total{reason="stop"} 70
"""


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        text = {"/metrics": METRICS, "/none": ""}.get(self.path)
        self.send_response(404 if text is None else 200)
        self.end_headers()
        self.wfile.write((text or "").encode())

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def port() -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_probes(port: int) -> None:
    assert http_status("127.0.0.1", port, "/none") == 200
    assert http_status("127.0.0.1", port, "/absent") == 404
    assert sequences_under_way("127.0.0.1", port) == 5


def test_nobody_there_is_no_answer() -> None:
    (port,) = free_ports(1)
    assert http_status("127.0.0.1", port, "/") is None
    assert sequences_under_way("127.0.0.1", port) is None
