"""The front end's own metrics: requests by route and status, in all worker processes together. Knows no engine.

With several workers each writes into files of a folder that they share (prometheus_client's way), and any of them answers for all.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger(__name__)

_FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""Read by prometheus_client when it is imported; set by `shared_by_workers` for the workers alone."""
_SECONDS = (0.005, 0.02, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_FILES = ("counter", "histogram", "gauge_livesum")
"""Of each worker: one for each kind of metric below, called as prometheus_client would."""
_FILE_BYTES = 256 * 1024
"""Ten routes with fifteen statuses take a fifth of it."""
_OF_A_PROCESS = re.compile(r"gauge_live\w+_(\d+)\.db$")


@contextlib.contextmanager
def shared_by_workers(folder: str) -> Iterator[None]:
    """Processes started meanwhile count together."""
    os.environ[_FOLDER_VARIABLE] = folder
    try:
        yield
    finally:
        os.environ.pop(_FOLDER_VARIABLE, None)


class HttpMetrics:
    """One per application."""

    def __init__(self) -> None:
        if (folder := os.environ.get(_FOLDER_VARIABLE)) is not None and not _reserve(Path(folder)):
            del os.environ[_FOLDER_VARIABLE]  # this worker's counts are its own
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram  # here: the variable must have been set before

        self._registry = CollectorRegistry()
        self._requests = Counter("ernie_http_requests", "HTTP requests by route and status", ["route", "status"], registry=self._registry)
        self._seconds = Histogram(
            "ernie_http_request_seconds",
            "From the request's first byte to the answer's last",
            ["route"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._under_way = Gauge(
            "ernie_http_requests_under_way", "HTTP requests being answered", registry=self._registry, multiprocess_mode="livesum"
        )

    def began(self) -> None:
        self._under_way.inc()

    def ended(self, route: str, status: int, seconds: float) -> None:
        self._under_way.dec()
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """Prometheus text, of all workers."""
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.multiprocess import MultiProcessCollector

        folder = os.environ.get(_FOLDER_VARIABLE)
        if folder is None:
            return generate_latest(self._registry)
        _forget_the_dead(Path(folder))
        registry = CollectorRegistry()
        MultiProcessCollector(registry, folder)
        return generate_latest(registry)


def _reserve(folder: Path) -> bool:
    """Make this worker's files with all the room that they need; False: the disk is full. prometheus_client would map files with holes, and
    whoever first writes into one on a full disk is killed by SIGBUS."""
    files = [folder / f"{kind}_{os.getpid()}.db" for kind in _FILES]
    try:
        for path in files:
            with path.open("ab") as file:
                os.posix_fallocate(file.fileno(), 0, _FILE_BYTES)
    except OSError as error:
        log.error("The metrics of this worker are counted apart: no room for them in %s (%s).", folder, error.strerror)
        for path in files:
            path.unlink(missing_ok=True)
        return False
    return True


def _forget_the_dead(folder: Path) -> None:
    """What a killed worker was answering is not under way any more. Its counts stay."""
    for path in folder.glob("gauge_live*.db"):
        match = _OF_A_PROCESS.search(path.name)
        if match and not Path(f"/proc/{match[1]}").exists():
            path.unlink(missing_ok=True)
