"""Times operators at the sizes of their specs and prints one table; knows nothing of what they compute.

python -m ernie_kernels.bench [--op linear --op swiglu] [--reference] [--threads 2]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np

from . import ops, xp
from .specs import SPECS, Inputs, OpSpec, Sizes

_COLD_BYTES = 256 * 2**20
"""Inputs are used in turn until this much has been read, so that weights come from memory as they do in a model, not from a cache."""
_SECONDS_OF_PREPARATION = 1.0
_SECONDS_PER_ROW = 0.5


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the command line and prints the table."""
    parser = argparse.ArgumentParser(prog="python -m ernie_kernels.bench", description="Time the operators at real sizes.")
    parser.add_argument("--op", action="append", choices=[spec.name for spec in SPECS], help="only this operator (may be repeated)")
    parser.add_argument("--reference", action="store_true", help="time the references instead of what ops binds")
    parser.add_argument("--threads", type=int, help="threads of the CPU kernels (default: the process's cores)")
    options = parser.parse_args(arguments)
    ops.warm_up(options.threads)
    print(f"{'op':16} {'sizes':70} {'µs':>10} {'GB/s':>7} {'GFLOP/s':>8}   {'reference' if options.reference else 'ops'} on {xp.name}")
    for spec in SPECS:
        if options.op is None or spec.name in options.op:
            for sizes in spec.bench_sizes:
                print(_row(spec, spec.reference if options.reference else spec.op, sizes), flush=True)


def _row(spec: OpSpec, function: Callable[..., object], sizes: Sizes) -> str:
    num_bytes, num_operations = spec.work(**sizes)
    seconds = time_calls(function, _cold_inputs(spec, sizes, num_bytes))
    shown = " ".join(f"{name}={_short(value)}" for name, value in sizes.items())
    return f"{spec.name:16} {shown:70} {seconds * 1e6:10.1f} {num_bytes / seconds / 1e9:7.1f} {num_operations / seconds / 1e9:8.1f}"


def _cold_inputs(spec: OpSpec, sizes: Sizes, num_bytes: int) -> list[Inputs]:
    rng = np.random.default_rng(0)
    start = time.perf_counter()
    inputs = [spec.make(rng, **sizes)]
    while len(inputs) * num_bytes < _COLD_BYTES and time.perf_counter() - start < _SECONDS_OF_PREPARATION:
        inputs.append(spec.make(rng, **sizes))
    return inputs


def _short(value: object) -> str:
    return f"{len(value)}×{value[0]}" if isinstance(value, list) else str(value)


def time_calls(function: Callable[..., object], inputs: Sequence[Inputs]) -> float:
    """Median seconds of one call, the inputs used in turn, after each has been used once."""
    for arguments in inputs:
        function(**arguments)
    durations: list[float] = []
    while sum(durations) < _SECONDS_PER_ROW:
        for arguments in inputs:
            start = time.perf_counter()
            function(**arguments)
            durations.append(time.perf_counter() - start)
    return statistics.median(durations)


if __name__ == "__main__":
    main()
