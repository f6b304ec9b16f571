"""The soak in short: every answer right, every mistake told, every hang-up noticed, and nothing left."""

from __future__ import annotations

from tests.bench.soak import KINDS, MAY_GROW_FILES, soak
from tests.e2e.clock import ClockServer

GROWTH_BYTES = 48 * 2**20
"""Far below what 300 answers would take if they stayed, far above what a server that has just started still allocates."""


def test_300_mixed_requests_leave_nothing(clock: ClockServer) -> None:
    report = soak(clock, 300, seed=1)
    assert report.failures == []
    assert report.kinds.total() == 300 and set(report.kinds) == set(KINDS)
    assert report.files_left() <= MAY_GROW_FILES
    first, last = report.samples[0].resident_bytes, report.samples[-1].resident_bytes
    assert all(last[name] - first[name] < GROWTH_BYTES for name in first), (first, last)
