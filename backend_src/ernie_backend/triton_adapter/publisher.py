"""Copies metrics into Triton's /metrics once a second; knows pb_utils and what a `Metric` is, not what is counted.

A metric update is a round trip of some 20 µs on the channel of the tokens: never one per token, and none for what did not change.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any

from ..metrics import Metric

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 1.0


class Publisher:
    """`publish` from one thread at a time; `close` before the server lets go of the model, or it may crash at shutdown.

    Several processes may publish counters under one name: Triton adds them up.
    """

    def __init__(self, pb_utils: Any, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics
        kinds = {"counter": pb_utils.MetricFamily.COUNTER, "gauge": pb_utils.MetricFamily.GAUGE}
        help_and_kind = {m.name: (m.help, kinds[m.kind]) for m in metrics}
        self._families = {
            name: pb_utils.MetricFamily(name=name, description=text, kind=kind) for name, (text, kind) in help_and_kind.items()
        }
        self._series = [self._families[m.name].Metric(labels=dict(m.labels)) for m in metrics]
        self._published = [0.0] * len(metrics)

    def publish(self) -> None:
        """What has changed since the last time."""
        for i, (metric, series) in enumerate(zip(self._metrics, self._series, strict=True)):
            value = float(metric.read())
            if value == self._published[i]:
                continue
            if metric.kind == "counter":
                series.increment(value - self._published[i])
            else:
                series.set(value)
            self._published[i] = value

    def close(self) -> None:
        self._series.clear()
        self._families.clear()


class PublishingThread:
    """Publishes by itself until `close`."""

    def __init__(self, pb_utils: Any, metrics: Sequence[Metric], name: str) -> None:
        self._publisher = Publisher(pb_utils, metrics)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._publisher.publish()
        self._thread.start()

    def close(self) -> None:
        """End the thread, then let go of the metrics."""
        self._closing.set()
        self._thread.join(5)
        self._publisher.close()

    def _run(self) -> None:
        while not self._closing.wait(INTERVAL_SECONDS):
            try:
                self._publisher.publish()
            except Exception:
                log.exception("metrics could not be published")
