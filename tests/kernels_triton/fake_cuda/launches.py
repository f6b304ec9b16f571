"""Runs every case's launcher with Paddle tensors over the fake libcuda, as production would over the real one; prints what arrived as JSON.

A process of its own: kernels are compiled here, and libcuda is chosen by the environment (TRITON_LIBCUDA_PATH, LD_LIBRARY_PATH).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paddle
from triton.backends.nvidia.driver import CudaLauncher

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


@contextmanager
def given_to_the_launcher() -> Iterator[list[list[str]]]:
    """Inside, what each launch is called with, but for hooks of profilers and what they are told: grid, stream, function, packed metadata
    and arguments, a tensor by its address."""
    calls: list[list[str]] = []
    plain = CudaLauncher.__call__

    def call(self: CudaLauncher, *given: Any) -> None:
        calls.append([hex(each.data_ptr()) if hasattr(each, "data_ptr") else repr(each) for each in (*given[:6], *given[9:])])
        plain(self, *given)

    CudaLauncher.__call__ = call
    try:
        yield calls
    finally:
        CudaLauncher.__call__ = plain


def launches_of(name: str, log: Path) -> list[dict[str, Any]] | str:
    """What one case launched; `knows_tensor` says whether the first argument is the address of a tensor of the case, `again` whether a
    second start, which does not ask Triton, gave its launcher what the first one did. Or an error's text."""
    tensors: list[Any] = []
    made: Iterator[Any] = iter(())

    def make(dtype: str, *shape: int) -> Any:
        tensors.append(paddle.empty(list(shape), getattr(paddle, dtype)))
        return tensors[-1]

    log.write_text("")
    try:
        with given_to_the_launcher() as first:
            CASES[name].call(make)
        known, made = len(launch._known), iter(list(tensors))
        text = log.read_text()
        with given_to_the_launcher() as second:
            CASES[name].call(lambda *_: next(made))
        assert len(launch._known) == known, "the second start was not known"
    except Exception as error:  # one broken launcher must not hide the others
        return f"{type(error).__name__}: {error}"
    addresses = {tensor.data_ptr() for tensor in tensors}
    found = []
    for line in text.splitlines():
        kernel, *numbers = line.split()
        record: dict[str, Any] = dict(zip(FIELDS, map(int, numbers), strict=True))
        found.append(record | {"kernel": kernel, "knows_tensor": record["first_argument"] in addresses, "again": first == second})
    return found


if __name__ == "__main__":
    sys.modules["torch"] = None  # type: ignore[assignment]  # as on a host that has none: importing it raises ImportError
    launch.use_device(HopperWithoutHopper())
    result = {name: launches_of(name, Path(os.environ["FAKE_CUDA_LOG"])) for name in CASES}
    print(json.dumps(result))
