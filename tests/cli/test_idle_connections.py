"""Connections of another process that are ended from outside: those on which nothing is under way, and no others."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from ernie_backend.cli.background import free_ports
from ernie_backend.cli.idle_connections import IdleConnections

SERVER = """
import socket, sys, threading
def serve(port):
    listening = socket.create_server(("127.0.0.1", port))
    sys.stdout.write("ready\\n")
    sys.stdout.flush()
    while True:
        connection, _ = listening.accept()
        threading.Thread(target=connection.sendall, args=(b"x" * int(connection.recv(20)),), daemon=True).start()
        kept.append(connection)
kept = []
for port in sys.argv[1:]:
    threading.Thread(target=serve, args=(int(port),)).start()
"""
MUCH = 50_000_000


@pytest.fixture
def ports() -> list[int]:
    return free_ports(2)


@pytest.fixture
def pid(ports: list[int]) -> Iterator[int]:
    """Of a server on two ports that keeps every connection, and sends as many bytes as it is asked for."""
    process = subprocess.Popen([sys.executable, "-c", SERVER, *map(str, ports)], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None and [process.stdout.readline() for _ in ports] == [b"ready\n"] * 2
        yield process.pid
    finally:
        process.kill()
        process.communicate()


def connect(port: int, much: int) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), timeout=20)
    client.sendall(str(much).encode())
    assert client.recv(1) == b"x"
    return client


def is_open(client: socket.socket) -> bool:
    client.settimeout(0.2)
    with contextlib.suppress(TimeoutError):
        return client.recv(1) != b""
    return True


def test_the_idle_ones_to_these_ports_are_ended(pid: int, ports: list[int]) -> None:
    idle, slow_reader, elsewhere = connect(ports[0], 1), connect(ports[0], MUCH), connect(ports[1], 1)
    count = IdleConnections(pid, ports[:1]).close()
    if count == 0:
        pytest.skip("one process may not reach into another here")
    assert count == 1 and not is_open(idle) and is_open(elsewhere)
    slow_reader.settimeout(20)
    read = 1
    while read < MUCH:
        read += len(slow_reader.recv(1_000_000))
    assert is_open(slow_reader)


def test_one_look_is_not_enough(pid: int, ports: list[int]) -> None:
    client = connect(ports[0], 1)
    assert IdleConnections(pid, ports).close(0.05) == 0 and is_open(client)


def test_a_process_that_is_gone_has_none() -> None:
    assert IdleConnections(2**22 + 1, (80,)).close() == 0  # beyond the kernel's highest
