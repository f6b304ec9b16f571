"""How a Triton-language kernel is started: interpreted or compiled, under which driver; knows no operator and imports no tensor framework.

Interpreted where TRITON_INTERPRET=1 stood in the environment when the kernels were imported (tests, on a CPU), else compiled. Under PyTorch
the Triton language finds its own driver. Its stock driver imports torch, so under another framework `use_device` must come before the first
launch: it installs a driver that asks that framework instead. A launch needs libcuda, a C compiler and Python's headers at run time (the
argument packer of each signature is compiled once and cached in TRITON_CACHE_DIR).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Protocol

import triton
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase
from triton.backends.nvidia.driver import CudaLauncher, CudaUtils, ty_to_cpp
from triton.runtime.interpreter import InterpretedFunction

from . import interpreter

Argument = Any
"""A tensor (anything with `.data_ptr()` and `.dtype`), an int or a float; when interpreted also a numpy array or `interpreter.Bfloat16`."""


class Device(Protocol):
    """What a driver must know of the framework that owns the device's memory and streams."""

    def device_index(self) -> int: ...
    def select_device(self, index: int) -> None: ...
    def device_capability(self) -> tuple[int, int]:
        """(9, 0) for Hopper."""
        ...

    def stream_handle(self) -> int:
        """The current CUstream as an integer: the capturing one while a CUDA graph is captured."""
        ...


def run(
    kernel: Any,
    grid: Sequence[int],
    *args: Argument,
    num_warps: int = 4,
    num_stages: int = 1,
    pdl: bool = False,
    branches_on_sums: bool = False,
    **constants: Any,
) -> None:
    """Starts `kernel` on the current stream over `grid` (one to three host ints): no allocation and no synchronisation, so that it can be
    captured (after one run outside the capture, which compiles and loads).

    `constants` are the kernel's constexpr parameters. `pdl` asks for programmatic dependent launch; it takes effect only for a kernel with
    a `PDL: tl.constexpr` parameter, which is set here (False when interpreted, and before Hopper, whose instructions it guards): such a
    kernel must call gdc_wait before it touches what an earlier kernel wrote.

    The first start of a kernel with such constants and kinds of arguments is Triton's own, which compiles; the next ones go straight to its
    compiled launcher. Host time of one, checks of the arguments included, under Paddle on a fast core without a GPU: 12 to 20 µs instead of
    17 to 29. Beside an H100, on a slower core, about 20 instead of 35 to 65; use graphs where that counts.

    `args` are tensors, descriptors of bulk copies, or Python's own ints, floats and bools, for the parameters in front of the constexpr
    ones, all of which `constants` must name. Hooks of Triton's profiler hear of first starts only.

    `branches_on_sums` must be said of a kernel whose branches or loops depend on a sum of floats: it is compiled without fused
    multiply-adds. The lanes of a warp add up in pairs, each its own product to the other's; fused, only its own is not rounded, so that two
    lanes may get two sums, take two branches, and wait for each other for ever.
    """
    if _observers:
        _observers[-1](kernel.__name__, args)
    if isinstance(kernel, InterpretedFunction):
        if "PDL" in kernel.arg_names:
            constants["PDL"] = False
        interpreter.run(kernel, tuple(grid), args, constants)
        return
    driver = triton.runtime.driver.active
    device = driver.get_current_device()
    key = (id(kernel), device, num_warps, num_stages, pdl, branches_on_sums, *constants.items(), *map(_kind, args))
    known = _known.get(key)
    if known is None:
        options: dict[str, Any] = {"num_warps": num_warps, "num_stages": num_stages}
        if branches_on_sums:
            options["enable_fp_fusion"] = False
        if "PDL" in kernel.arg_names:
            constants["PDL"] = options["launch_pdl"] = pdl and _arch(driver) >= 90
        rest = tuple(constants[name] for name in kernel.arg_names[len(args) :])
        assert not any(parameter.is_constexpr for parameter in kernel.params[: len(args)]), "its value would not be in the key"
        _known[key] = kernel[tuple(grid)](*args, **constants, **options), rest
        return
    compiled, rest = known
    x, y, z = (*grid, 1, 1)[:3]
    stream = driver.get_current_stream(device)
    compiled.run(x, y, z, stream, compiled.function, compiled.packed_metadata, None, None, None, *args, *rest)


_known: dict[tuple[Any, ...], tuple[Any, tuple[Any, ...]]] = {}
"""What has been started before: what was compiled for it, and the constants in the order of the kernel's parameters."""


def _kind(argument: Argument) -> Any:
    """What of an argument Triton compiles for, or more: a kernel that is known for these kinds is the one that Triton would look up."""
    kind = type(argument)
    if kind is int:
        if argument == 1:
            return 1
        size = "i32" if -(2**31) <= argument < 2**31 else "i64" if argument < 2**63 else "u64"
        return size, argument % 16 == 0
    if kind is float or kind is bool:
        return kind
    if hasattr(argument, "block_shape"):  # the descriptor of a bulk copy
        return _kind(argument.base), tuple(argument.block_shape), getattr(argument, "layout", None)
    return argument.dtype, argument.data_ptr() % 16 == 0


_observers: list[Callable[[str, Sequence[Argument]], None]] = []


@contextmanager
def observe(observer: Callable[[str, Sequence[Argument]], None]) -> Iterator[None]:
    """Inside, `observer` is told the name and the arguments of each kernel that is started."""
    _observers.append(observer)
    try:
        yield
    finally:
        _observers.pop()


def cdiv(a: int, b: int) -> int:
    """⌈a / b⌉. Triton's own, made for both sides, takes 2.5 µs of host time; so does its `next_power_of_2`."""
    return -(-a // b)


def next_power_of_2(n: int) -> int:
    """The least that is at least n > 0; 0 for 0."""
    return 1 << (n - 1).bit_length() if n else 0


def runs_on_hopper(kernel: Any) -> bool:
    """Whether `kernel` would be compiled for a GPU with Hopper's own matrix and copy instructions (they end with Hopper)."""
    return not isinstance(kernel, InterpretedFunction) and _arch(triton.runtime.driver.active) // 10 == 9


@cache
def _arch(driver: Any) -> int:
    """90 for Hopper. Asked once: the answer takes 6 µs, a tenth of a launch."""
    return int(driver.get_current_target().arch)


def use_device(device: Device) -> None:
    """From now on compiled kernels run on `device`'s current stream, through a driver that needs no torch. OSError, AssertionError: no
    libcuda on this machine."""
    triton.runtime.driver.set_active(_Driver(device))


class _Driver(DriverBase):
    """Triton's CUDA driver without its torch: a framework answers the four questions that torch answers there."""

    def __init__(self, device: Device) -> None:
        self.utils = CudaUtils()
        self.launcher_cls = CudaLauncher
        self.get_current_device = device.device_index
        self.set_current_device = device.select_device
        self._device = device

    @classmethod
    def is_active(cls) -> bool:
        return True

    def map_python_to_cpp_type(self, ty: str) -> str:
        return ty_to_cpp(ty)

    def get_current_stream(self, device_index: int) -> int:
        return self._device.stream_handle()

    def get_device_capability(self, device_index: int = 0) -> tuple[int, int]:
        return self._device.device_capability()

    def get_current_target(self) -> GPUTarget:
        major, minor = self._device.device_capability()
        return GPUTarget("cuda", major * 10 + minor, 32)

    def get_active_torch_device(self) -> Any:
        raise NotImplementedError("this driver knows no torch device")

    def get_benchmarker(self) -> Any:
        raise NotImplementedError("kernels are not tuned at run time")
