"""Every kernel compiles for sm_80 and sm_90 through its launcher, fits into shared memory and into registers. Needs no GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.kernels_triton.aot import SHARED_MEMORY_BYTES
from tests.kernels_triton.cases import CASES

ARCHS = (80, 90)
MAX_STACK_BYTES = 96
"""ptxas parks a few values of a long kernel outside its loops (sampling's last kernel: 72 bytes); a tile that does not fit into registers
spills hundreds in them."""


@pytest.fixture(scope="module")
def compiled() -> dict[int, dict[str, Any]]:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.kernels_triton.aot"]
    running = {arch: subprocess.Popen([*command, str(arch)], env=environment, stdout=subprocess.PIPE, text=True) for arch in ARCHS}
    found = {}
    for arch, process in running.items():
        output, _ = process.communicate(timeout=600)
        assert process.returncode == 0
        found[arch] = json.loads(output.splitlines()[-1])
    return found


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("arch", ARCHS)
def test_compiles_and_fits(compiled: dict[int, dict[str, Any]], name: str, arch: int) -> None:
    launches = compiled[arch][name]
    assert not isinstance(launches, str), launches
    assert len(launches) == CASES[name].launches
    for launch in launches:
        assert launch["stack_bytes"] <= MAX_STACK_BYTES, launch
        assert launch["shared_bytes"] <= SHARED_MEMORY_BYTES[arch], launch
        assert launch["registers"] * 32 * launch["num_warps"] <= 65536, launch
        assert launch["launch_pdl"] is False or arch >= 90
        assert not (name.startswith("sample") and launch["fuses"]), "its lanes would part ways (launch.run)"
        assert all(n >= 1 for n in launch["grid"]) and all(n <= 65535 for n in launch["grid"][1:]), launch
