"""`tritonserver --model-repository model_repository`, without our command line: only the environment that `ernie-triton env` prints."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import requests

from ernie_backend.cli.background import free_ports
from tests.architecture.sources import ROOT

START_SECONDS = 90
CLOSE = {"Connection": "close"}  # tritonserver would wait for an idle connection when it stops


def test_plain_tritonserver_answers(small_model: Path, tmp_path: Path) -> None:
    (tmp_path / "engine.json").write_text(json.dumps({"model": str(small_model), "max_model_len": 256}))
    http, grpc, metrics = free_ports(3)
    env = f'eval "$({sys.executable} -m ernie_backend.cli env --out {tmp_path / "triton"})"'
    flags = f"--http-port {http} --grpc-port {grpc} --metrics-port {metrics}"
    flags += f" --backend-config=python,shm-region-prefix-name=by-hand-{os.getpid()}-"
    script = f"{env}\nexec tritonserver --model-repository model_repository {flags} --http-address 127.0.0.1 --grpc-address 127.0.0.1"
    log = tmp_path / "log"
    with log.open("w") as output:
        environment = {**os.environ, "ERNIE_CONFIG": str(tmp_path / "engine.json"), "TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "2"}
        process = subprocess.Popen(["sh", "-c", script], cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        base = f"http://127.0.0.1:{http}"
        _await_ready(process, f"{base}/v2/health/ready", log)
        body = {
            "text_input": "The capital of China is",
            "max_tokens": 4,
            "sampling_parameters": json.dumps({"ignore_eos": True, "temperature": 0}),
        }
        answer = requests.post(f"{base}/v2/models/ernie/generate", json={**body, "stream": False}, headers=CLOSE, timeout=60)
        assert answer.status_code == 200, answer.text
        assert answer.json()["finish_reason"] == "length"
        assert json.loads(answer.json()["usage"])["completion_tokens"] == 4
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, log.read_text()[-3000:]


def _await_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            if requests.get(url, headers=CLOSE, timeout=2).status_code == 200:
                return
        except requests.ConnectionError:
            pass
        time.sleep(0.2)
    raise AssertionError(f"not ready after {START_SECONDS} s:\n{log.read_text()[-3000:]}")
