"""Counts what loading images and videos costs: items, bytes, seconds. Knows no URL and no metric's name."""

from __future__ import annotations

import threading

from ..metrics import Histogram
from ..protocol import MediaKind

_SECONDS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120)


class MediaUsage:
    """For several threads at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.bytes = dict.fromkeys(MediaKind, 0)
        """As they came, before they were decoded."""
        self.fetch_seconds = Histogram(_SECONDS)
        self.decode_seconds = Histogram(_SECONDS)

    def fetched(self, kind: MediaKind, num_bytes: int, seconds: float) -> None:
        with self._lock:
            self.bytes[kind] += num_bytes
            self.fetch_seconds.observe(seconds)

    def decoded(self, seconds: float) -> None:
        with self._lock:
            self.decode_seconds.observe(seconds)
