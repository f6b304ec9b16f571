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
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("fake_cuda")
    include = Path(triton.__file__).parent / "backends/nvidia/include"
    source = HERE / "fake_cuda/fake_cuda.c"
    subprocess.run(["gcc", "-shared", "-fPIC", f"-I{include}", "-o", str(folder / "libcuda.so.1"), str(source)], check=True)
    return {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {
        "ERNIE_TENSOR_FRAMEWORK": "paddle",
        "FAKE_CUDA_LOG": str(folder / "log"),
        "LD_LIBRARY_PATH": str(folder),
        "OMP_NUM_THREADS": "1",
        "TRITON_LIBCUDA_PATH": str(folder),
    }


def run(environment: dict[str, str], program: str, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", f"tests.kernels_triton.fake_cuda.{program}", *arguments]
    output = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=600).stdout
    return json.loads(output.splitlines()[-1])


@pytest.fixture(scope="module")
def reported(environment: dict[str, str]) -> dict[str, Any]:
    return run(environment, "launches")


@pytest.mark.parametrize("name", CASES)
def test_launches_with_paddle_tensors(reported: dict[str, Any], name: str) -> None:
    launches = reported[name]
    assert not isinstance(launches, str), launches
    assert len(launches) == CASES[name].launches
    for launch in launches:
        assert launch["stream"] == STREAM
        assert launch["knows_tensor"], launch
        assert launch["threads"] % 32 == 0
        assert launch["again"], launch


FIRST = {1: ["_norm_kernel", "gemv_kernel"], 16: ["_norm_kernel", "tile_kernel"]}  # norm and qkv of the first layer
ATTENTION = {1: ["_decode_attention_kernel", "gemv_kernel"], 16: ["_decode_attention_kernel", "tile_kernel"]}
DENSE = {1: ["add_norm_gemv_kernel", "gemv_kernel"], 16: ["_norm_kernel", "tile_kernel", "tile_kernel"]}
NEXT = {1: ["add_norm_gemv_kernel"], 16: ["_norm_kernel", "tile_kernel"]}  # norm and qkv of a later one
EXPERTS = {
    1: ["combine_norm_route_kernel", "expert_gemv_kernel", "expert_gemv_kernel"],
    16: ["_norm_kernel", "route_kernel", "sort_kernel", "expert_tile_kernel", "expert_tile_kernel"],
}
HEAD = {1: ["gemv_kernel"], 16: ["tile_kernel"]}


@pytest.mark.parametrize("kind", ["dense", "moe"])
def test_a_decode_step_with_paddle_tensors(environment: dict[str, str], kind: str) -> None:
    """Which kernels a step starts, in which order and on which stream, and that they are one chain of programmatic launches."""
    found = run(environment, "decode_step", kind, "1", "16")
    for batch in (1, 16):
        launches = found[str(batch)]
        expected = ["_feed_tokens_kernel", "_embedding_kernel", *FIRST[batch], *ATTENTION[batch], *DENSE[batch]]
        if kind == "moe":
            expected += [*NEXT[batch], *ATTENTION[batch], *EXPERTS[batch]]
        expected += ["combine_kernel" if kind == "moe" else "_norm_kernel", *HEAD[batch], "scan_kernel", "choose_kernel"]
        assert [launch["kernel"] for launch in launches] == expected
        assert all(launch["stream"] == STREAM and launch["first_argument"] for launch in launches)
        assert [launch["kernel"] for launch in launches if not launch["programmatic"]] == ["_feed_tokens_kernel"]
        for attention in (launch for launch in launches if launch["kernel"] == "_decode_attention_kernel"):
            assert (attention["grid_x"], attention["grid_z"]) == (1, batch)  # key heads, requests
        assert launches[-3]["grid_x"] * launches[-3]["grid_y"] == (640 // 4 if batch == 1 else 640 // 16)  # the head's programs


@pytest.mark.parametrize("case", ["moe 8192 8192", "moe 512 2048", "vl 8192 8192", "vl 8192 1024"])
def test_no_kernel_is_compiled_behind_the_warm_up(environment: dict[str, str], case: str) -> None:
    """150 steps of prompts of text, some with an image, of random lengths: one compilation of 0.2 to 1 s would hold up every answer under
    way. (The kind of model, its context, and most tokens of a step.)"""
    found = run(environment, "late_compiles", *case.split())
    assert found["at start"] > 50 and found["late"] == []
