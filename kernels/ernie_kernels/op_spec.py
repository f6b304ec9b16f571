"""What tests and timings know of an operator (`OpSpec`), and how its inputs are drawn; knows no operator."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import xp

Inputs = dict[str, Any]
Sizes = dict[str, Any]


@dataclass(frozen=True)
class OpSpec:
    """Everything that tests and timings need to know of one operator."""

    name: str
    reference: Callable[..., Any]
    op: Callable[..., Any]  # what `ops` binds
    make: Callable[..., Inputs]  # (rng, **sizes) → the operator's arguments by name
    test_sizes: tuple[Sizes, ...]  # odd, small
    bench_sizes: tuple[Sizes, ...]  # ERNIE-4.5-0.3B, and experts of 21B-A3B
    work: Callable[..., tuple[int, int]]  # (**sizes) → bytes that must cross memory, floating-point operations
    tolerance: float = 1e-5  # largest |op − reference| and |reference − float64|, in units of the largest |result|
    writes: tuple[str, ...] = ()  # arguments changed in place

    def run(self, function: Callable[..., Any], inputs: Inputs) -> list[np.ndarray]:
        """The results of `function`, then what it wrote in place, as arrays; `inputs` stay as they are."""
        fresh = {name: xp.from_numpy(xp.to_numpy(inputs[name])) for name in self.writes}
        results = function(**{**inputs, **fresh})
        results = results if isinstance(results, tuple) else (results,)
        return [xp.to_numpy(x) for x in (*results, *fresh.values())]


def normal(rng: np.random.Generator, *shape: int) -> Any:
    """A float32 tensor of standard normal values."""
    return xp.from_numpy(rng.standard_normal(shape, np.float32))


def weight_array(rng: np.random.Generator, dtype: str, *shape: int) -> np.ndarray:
    """Values of size about 1/√depth as a weight of dtype "float32" or "bfloat16" (there: a random sign and fraction, one exponent)."""
    if dtype == "float32":
        return rng.standard_normal(shape, np.float32) / np.float32(np.sqrt(shape[-1]))
    exponent = 127 - math.ceil(math.log2(shape[-1]) / 2)
    return rng.integers(0, 2**16, shape, np.uint16) & np.uint16(0x807F) | np.uint16(exponent << 7)


def int32(values: Any) -> Any:
    return xp.from_numpy(np.asarray(values, np.int32))


def element_size(dtype: str) -> int:
    return {"float32": 4, "bfloat16": 2}[dtype]
