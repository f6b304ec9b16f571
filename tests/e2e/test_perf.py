"""`make perf`: NVIDIA's own load generator against both faces, as a Triton user would run it."""

from __future__ import annotations

import re
import subprocess
import sys

from ernie_backend.cli.background import RunningServer


def test_perf_analyzer_measures_one_and_eight_streams(server: RunningServer) -> None:
    command = [sys.executable, "-m", "ernie_backend.cli", "perf", "--url", server.triton_grpc, "--max-tokens", "4"]
    command += ["--openai-url", server.openai_url.partition("://")[2]]
    command += ["--measurement-interval-ms", "500", "--stability-percent", "999"]  # whether it runs, not how fast
    answer = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    rates = re.findall(r"^Concurrency: (\d+), throughput: ([\d.]+) infer/sec", answer.stdout, re.MULTILINE)
    assert [streams for streams, _ in rates] == ["1", "8", "1", "8"], answer.stdout
    assert all(float(rate) > 0 for _, rate in rates)
    assert answer.stdout.index("== KServe") < answer.stdout.index("== OpenAI")
