"""What a server tells of itself in its metrics, and waiting until it is idle."""

from __future__ import annotations

import time

import httpx

from ernie_backend.cli.background import RunningServer

IDLE_GAUGES = (
    "ernie_kv_blocks_used",
    "ernie_sequences_running",
    "ernie_sequences_waiting",
    "ernie_postprocess_streams",
    "ernie_requests_in_preparation",
)


def metric(server: RunningServer, name: str) -> float:
    """The sum of a metric's series. Published once a second: the truth of a moment ago; the first time some seconds after the start."""
    deadline = time.monotonic() + 60
    while True:
        text = httpx.get(server.metrics_url, timeout=10).text
        values = [float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.split("{")[0].split(" ")[0] == name]
        if values:
            return sum(values)
        assert time.monotonic() < deadline, f"{name} is not among the metrics"
        time.sleep(0.2)


def wait_until_idle(server: RunningServer, seconds: float = 60.0) -> None:
    """No block, request or stream state is left; twice in a row, more than a publishing interval apart."""
    deadline = time.monotonic() + seconds
    quiet = 0
    while quiet < 2:
        busy = {name: value for name in IDLE_GAUGES if (value := metric(server, name))}
        quiet = 0 if busy else quiet + 1
        assert time.monotonic() < deadline, f"still busy: {busy}"
        time.sleep(1.1)


def wait_for_metric(server: RunningServer, name: str, value: float, seconds: float = 60.0) -> None:
    """Until the published number is this one."""
    deadline = time.monotonic() + seconds
    while (found := metric(server, name)) != value:
        assert time.monotonic() < deadline, f"{name} is {found}, expected {value}"
        time.sleep(0.1)
