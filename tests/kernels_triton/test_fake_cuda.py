"""Production's path without its GPU: Paddle tensors → launchers → Triton's compiled launcher → a fake libcuda; torch not importable."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import triton

from tests.kernels_triton.cases import CASES
from tests.kernels_triton.fake_cuda import STREAM

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("fake_cuda")
    include = Path(triton.__file__).parent / "backends/nvidia/include"
    source = HERE / "fake_cuda/fake_cuda.c"
    subprocess.run(["gcc", "-shared", "-fPIC", f"-I{include}", "-o", str(folder / "libcuda.so.1"), str(source)], check=True)
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {
        "ERNIE_TENSOR_FRAMEWORK": "paddle",
        "FAKE_CUDA_LOG": str(folder / "log"),
        "LD_LIBRARY_PATH": str(folder),
        "OMP_NUM_THREADS": "1",
        "TRITON_LIBCUDA_PATH": str(folder),
    }
    command = [sys.executable, "-m", "tests.kernels_triton.fake_cuda.launches"]
    output = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=600).stdout
    return json.loads(output.splitlines()[-1])


@pytest.mark.parametrize("name", CASES)
def test_launches_with_paddle_tensors(reported: dict[str, Any], name: str) -> None:
    launches = reported[name]
    assert not isinstance(launches, str), launches
    assert len(launches) == CASES[name].launches
    for launch in launches:
        assert launch["stream"] == STREAM
        assert launch["knows_tensor"], launch
        assert launch["threads"] % 32 == 0
