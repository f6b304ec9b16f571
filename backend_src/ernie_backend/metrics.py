"""What a metric is: a name, a kind, a reader; and a histogram that is cheap to fill. A leaf: knows neither what is counted nor by whom.

A histogram is published as three counters, as Prometheus stores one anyway: `NAME_bucket` with a label `le`, `NAME_sum` and `NAME_count`.
Triton's own histograms take one call (21 µs) for each value observed; these take one for each bucket that changed, however many came.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate


@dataclass(frozen=True)
class Metric:
    """One time series."""

    name: str
    help: str
    kind: str
    """`counter` or `gauge`."""
    read: Callable[[], float]
    """A counter's gives the total since the start."""
    labels: Mapping[str, str] = field(default_factory=dict)


class Histogram:
    """For one writer; others may read at any time."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        """`bounds`: upper ends of the buckets, each included, in rising order."""
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times

    @property
    def count(self) -> int:
        return sum(self.counts)

    def at_most(self, bucket: int) -> int:
        """How many values were at most `bounds[bucket]`."""
        return sum(self.counts[: bucket + 1])

    def cumulative(self) -> list[int]:
        """`at_most` of every bucket, the open one last."""
        return list(accumulate(self.counts))


def histogram_metrics(name: str, text: str, histogram: Histogram, labels: Mapping[str, str] | None = None) -> list[Metric]:
    """The series of a histogram; each is read for itself, so that a scrape may see one value's bucket before its sum."""
    labels = labels or {}

    def bucket(position: int) -> Callable[[], float]:
        return lambda: histogram.at_most(position)

    ends = [*(f"{bound:g}" for bound in histogram.bounds), "+Inf"]
    return [
        *(Metric(f"{name}_bucket", text, "counter", bucket(i), {**labels, "le": end}) for i, end in enumerate(ends)),
        Metric(f"{name}_sum", text, "counter", lambda: histogram.sum, labels),
        Metric(f"{name}_count", text, "counter", lambda: histogram.count, labels),
    ]
