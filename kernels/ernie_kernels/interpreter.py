"""Makes Triton 3.6's interpreter right for bfloat16, for numpy ≥ 2.4 and for any framework's CPU tensors; knows no operator and no GPU.

As shipped it multiplies bfloat16 bit patterns as integers, truncates casts to bfloat16, raises on loops with a run-time bound under numpy
≥ 2.4, and copies arguments through torch. Not interpreted at all: inline asm, libdevice, gdc_wait and gdc_launch_dependents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter as stock
from triton.runtime.interpreter import TensorHandle


@dataclass(frozen=True)
class Bfloat16:
    """A numpy uint16 array whose elements are bfloat16 bit patterns, as a kernel argument."""

    bits: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.bits.shape

    @property
    def dtype(self) -> str:
        return "bfloat16"

    def data_ptr(self) -> int:
        return self.bits.ctypes.data


@dataclass(frozen=True)
class _NumpyArgument:
    array: np.ndarray

    @property
    def dtype(self) -> str:
        return self.array.dtype.name

    def data_ptr(self) -> int:
        return self.array.ctypes.data


def run(kernel: Any, grid: tuple[int, ...], args: Sequence[Any], constants: dict[str, Any]) -> None:
    """Interprets `kernel`, one program after another, on the arguments' own memory."""
    _install()
    kernel[grid](*(_NumpyArgument(a) if isinstance(a, np.ndarray) else a for a in args), **constants)


def bfloat16_to_float32(bits: np.ndarray) -> np.ndarray:
    """The values of bfloat16 bit patterns (uint16); exact."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def float32_to_bfloat16(values: np.ndarray) -> np.ndarray:
    """The bit patterns (uint16) of the nearest bfloat16, ties to even, as the hardware rounds."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)


@cache
def _install() -> None:
    builder = stock.InterpreterBuilder
    _use_memory_in_place()
    _index_under_new_numpy()
    _patch_once()
    builder.cast_impl = _cast(builder.cast_impl)
    builder.create_fp_to_fp = _convert(builder.create_fp_to_fp)
    builder.create_dot = _dot(builder.create_dot)
    builder.binary_op = _arithmetic(builder.binary_op, 2)
    builder.unary_op = _arithmetic(builder.unary_op, 1)
    stock.ReduceScanOpInterface.check_tensor = _refuse_bfloat16(stock.ReduceScanOpInterface.check_tensor)


def _use_memory_in_place() -> None:
    """Arguments are read and written where they are; the stock interpreter copies them with torch."""
    stock.GridExecutor._init_args_hst = lambda self, args, kwargs: (list(args), dict(kwargs))
    stock.GridExecutor._restore_args_dev = lambda self, *copies: None


def _index_under_new_numpy() -> None:
    """range(n) with a run-time n: int() of a one-element array raises since numpy 2.4."""
    patch_tensor = stock._patch_lang_tensor

    def patched(tensor: Any, scope: Any) -> None:
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    stock._patch_lang_tensor = patched


def _patch_once() -> None:
    """A kernel begins with the language patched for it; the stock interpreter patches it again, a millisecond each, for every function that
    the kernel calls: a quarter of all its time."""
    patch_language = stock._patch_lang

    def patched(function: Any) -> Any:
        languages = [value for value in function.__globals__.values() if value is tl or value is tl.core]
        if languages and not any(tl.core.is_builtin(language.program_id) for language in languages):
            return stock._LangPatchScope()
        return patch_language(function)

    stock._patch_lang = patched


def _is_bfloat16(handle: TensorHandle) -> bool:
    return handle.dtype.scalar == tl.bfloat16


def _widened(handle: TensorHandle) -> TensorHandle:
    return TensorHandle(bfloat16_to_float32(handle.data), tl.float32) if _is_bfloat16(handle) else handle


def _cast(stock_cast: Callable[..., TensorHandle]) -> Callable[..., TensorHandle]:
    def cast_impl(self: Any, source: TensorHandle, target: Any) -> TensorHandle:
        if target.scalar == tl.bfloat16:
            values = _widened(source).data.astype(np.float32)
            return TensorHandle(float32_to_bfloat16(values), tl.bfloat16)
        if _is_bfloat16(source):
            source = _widened(source)
            if target.scalar == tl.float32:
                return source
        return stock_cast(self, source, target)

    return cast_impl


def _convert(stock_convert: Callable[..., TensorHandle]) -> Callable[..., TensorHandle]:
    def create_fp_to_fp(self: Any, source: TensorHandle, target: Any, rounding: Any) -> TensorHandle:
        ends = (source.dtype.scalar, target.scalar)
        if tl.bfloat16 in ends and all(end.primitive_bitwidth != 8 for end in ends):
            return self.cast_impl(source, target)
        return stock_convert(self, source, target, rounding)

    return create_fp_to_fp


def _dot(stock_dot: Callable[..., TensorHandle]) -> Callable[..., TensorHandle]:
    def create_dot(self: Any, a: TensorHandle, b: TensorHandle, *rest: Any) -> TensorHandle:
        return stock_dot(self, _widened(a), _widened(b), *rest)

    return create_dot


def _arithmetic(stock_op: Callable[..., TensorHandle], operands: int) -> Callable[..., TensorHandle]:
    """bfloat16 arithmetic as float32 arithmetic, rounded once. Comparisons become booleans: the stock interpreter labels them with their
    operands' type, so that a comparison of float scalars cannot meet a block."""

    def op(self: Any, *args: Any) -> TensorHandle:
        handles, rest = args[:operands], args[operands:]
        result = stock_op(self, *(_widened(handle) for handle in handles), *rest)
        if result.data.dtype == np.bool_:
            return TensorHandle(result.data, tl.int1)
        if any(_is_bfloat16(handle) for handle in handles):
            return TensorHandle(float32_to_bfloat16(result.data), tl.bfloat16)
        return result

    return op


def _refuse_bfloat16(stock_check: Callable[..., None]) -> Callable[..., None]:
    """Reductions and scans work on the raw patterns: an error instead of a wrong sum. (Kernels accumulate in float32 anyway.)"""

    def check_tensor(self: Any, tensors: Any) -> None:
        if any(tensor.dtype == tl.bfloat16 for tensor in tensors):
            raise TypeError("cast to float32 before a reduction or scan: the interpreter cannot reduce bfloat16")
        stock_check(self, tensors)

    return check_tensor
