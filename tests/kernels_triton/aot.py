"""Compiles what the launchers launch, for a GPU that is not there: prints registers, spills, shared memory and grids as JSON.

python -m tests.kernels_triton.aot 90    (a process of its own, since a process either interprets kernels or compiles them)
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase
from triton.backends.nvidia.driver import ty_to_cpp

from tests.kernels_triton.cases import CASES

SHARED_MEMORY_BYTES = {80: 166912, 90: 232448}  # a block's opt-in limit
_CUOBJDUMP = os.path.join(os.path.dirname(triton.__file__), "backends/nvidia/bin/cuobjdump")


@dataclass
class Launch:
    kernel: str
    grid: tuple[int, ...]
    num_warps: int
    launch_pdl: bool
    fuses: bool
    """Whether a multiplication and an addition may become one."""
    shared_bytes: int
    registers: int = 0
    stack_bytes: int = 0  # per thread: where registers are spilled to


@dataclass(frozen=True)
class ShapeOnly:
    """A tensor without memory, well aligned."""

    dtype: str
    shape: tuple[int, ...]

    def data_ptr(self) -> int:
        return 1 << 20

    def numel(self) -> int:
        return math.prod(self.shape)


def make(dtype: str, *shape: int) -> ShapeOnly:
    return ShapeOnly(dtype, shape)


@dataclass
class _Launcher:
    """Takes the place of the compiled argument packer: records instead of launching."""

    driver: RecordingDriver
    metadata: Any
    resources: tuple[int, int] = (0, 0)

    def __call__(self, x: int, y: int, z: int, *ignored: Any) -> None:
        m = self.metadata
        self.driver.launches.append(Launch(m.name, (x, y, z), m.num_warps, m.launch_pdl, m.enable_fp_fusion, m.shared, *self.resources))


@dataclass(eq=False)
class RecordingDriver(DriverBase):
    """Compiles for `arch`, asks ptxas' output for resources, launches nothing."""

    arch: int
    launches: list[Launch] = field(default_factory=list)
    _newest: _Launcher | None = None

    @property
    def utils(self) -> RecordingDriver:
        return self

    def launcher_cls(self, source: Any, metadata: Any) -> _Launcher:
        self._newest = _Launcher(self, metadata)
        return self._newest

    def load_binary(self, name: str, cubin: bytes, shared: int, device: int) -> tuple[int, int, int, int, int]:
        assert self._newest is not None
        self._newest.resources = resources(cubin)
        return 1, 1, 0, 0, 1024

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": SHARED_MEMORY_BYTES[self.arch], "multiprocessor_count": 132}

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.arch, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def map_python_to_cpp_type(self, ty: str) -> str:
        return ty_to_cpp(ty)

    @classmethod
    def is_active(cls) -> bool:
        return True

    def get_active_torch_device(self) -> Any:
        raise NotImplementedError

    def get_benchmarker(self) -> Any:
        raise NotImplementedError


def resources(cubin: bytes) -> tuple[int, int]:
    """Registers and stack bytes per thread."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([_CUOBJDUMP, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", text)
    assert found is not None, text
    return int(found[1]), int(found[2])


def compile_cases(arch: int, names: list[str]) -> dict[str, list[Launch] | str]:
    """For each case what it would launch, or the text of the error that compiling it raised."""
    driver = RecordingDriver(arch)
    triton.runtime.driver.set_active(driver)
    found: dict[str, list[Launch] | str] = {}
    for name in names:
        driver.launches = []
        try:
            CASES[name].call(make)
        except Exception as error:  # one broken kernel must not hide the others
            found[name] = f"{type(error).__name__}: {error}"
        else:
            found[name] = driver.launches
    return found


if __name__ == "__main__":
    chosen = sys.argv[2:] or list(CASES)
    result = compile_cases(int(sys.argv[1]), chosen)
    print(json.dumps({name: [asdict(x) for x in v] if isinstance(v, list) else v for name, v in result.items()}))
