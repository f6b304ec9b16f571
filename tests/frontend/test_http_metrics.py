"""The files in which workers count together; in processes of their own, because prometheus_client asks once where it counts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = """
import resource, sys
from ernie_openai.http_metrics import HttpMetrics, shared_by_workers
with shared_by_workers(sys.argv[1]):
    if sys.argv[2] == "full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    metrics = HttpMetrics()
    metrics.began()
    metrics.ended("/health", 200, 0.1)
    print(metrics.text().decode())
"""


def worker(folder: Path, disk: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", WORKER, str(folder), disk], capture_output=True, text=True, check=True)


@pytest.mark.parametrize("disk", ["free", "full"])
def test_a_worker_counts_whatever_the_disk_has_left(tmp_path: Path, disk: str) -> None:
    first = worker(tmp_path, "free")
    second = worker(tmp_path, disk)
    together = 2.0 if disk == "free" else 1.0
    assert f'ernie_http_requests_total{{route="/health",status="200"}} {together}' in second.stdout
    assert "ernie_http_requests_under_way 0.0" in second.stdout
    assert not first.stderr and ("counted apart" in second.stderr) is (disk == "full")


def test_files_have_no_holes(tmp_path: Path) -> None:
    """Who writes into one on a full disk is killed by SIGBUS."""
    worker(tmp_path, "free")
    files = sorted(tmp_path.iterdir())
    assert [path.name.rpartition("_")[0] for path in files] == ["counter", "gauge_livesum", "histogram"]
    assert all(os.stat(path).st_blocks * 512 >= os.stat(path).st_size for path in files), "no holes"
