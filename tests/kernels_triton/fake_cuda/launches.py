"""Runs every case's launcher with Paddle tensors over the fake libcuda, as production would over the real one; prints what arrived as JSON.

A process of its own: kernels are compiled here, and libcuda is chosen by the environment (TRITON_LIBCUDA_PATH, LD_LIBRARY_PATH).
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import paddle

from ernie_kernels import launch
from tests.kernels_triton.cases import CASES
from tests.kernels_triton.fake_cuda import STREAM

FIELDS = ("grid_x", "grid_y", "grid_z", "threads", "shared_bytes", "programmatic", "stream", "first_argument")


class HopperWithoutHopper:
    """Paddle's answers on a GPU, as far as a driver asks for them."""

    def device_index(self) -> int:
        return 0

    def select_device(self, index: int) -> None:
        assert index == 0

    def device_capability(self) -> tuple[int, int]:
        return 9, 0

    def stream_handle(self) -> int:
        return STREAM


def launches_of(name: str, log: Path) -> list[dict[str, Any]] | str:
    """What one case launched; `knows_tensor` says whether the first argument is the address of a tensor of the case. Or an error's text."""
    tensors: list[Any] = []

    def make(dtype: str, *shape: int) -> Any:
        tensors.append(paddle.empty(list(shape), getattr(paddle, dtype)))
        return tensors[-1]

    log.write_text("")
    try:
        CASES[name].call(make)
    except Exception as error:  # one broken launcher must not hide the others
        return f"{type(error).__name__}: {error}"
    addresses = {tensor.data_ptr() for tensor in tensors}
    found = []
    for line in log.read_text().splitlines():
        kernel, *numbers = line.split()
        record: dict[str, Any] = dict(zip(FIELDS, map(int, numbers), strict=True))
        found.append(record | {"kernel": kernel, "knows_tensor": record["first_argument"] in addresses})
    return found


if __name__ == "__main__":
    sys.modules["torch"] = None  # type: ignore[assignment]  # as on a host that has none: importing it raises ImportError
    launch.use_device(HopperWithoutHopper())
    result = {name: launches_of(name, Path(os.environ["FAKE_CUDA_LOG"])) for name in CASES}
    print(json.dumps(result))
