"""Every spec: its reference against numpy float64, and what `ops` binds against its reference."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ernie_kernels import xp
from ernie_kernels.specs import SPECS

from . import oracles

CASES = [pytest.param(spec, sizes, id=f"{spec.name}-{n}") for spec in SPECS for n, sizes in enumerate(spec.test_sizes)]


def check_close(found: list[np.ndarray], expected: list[np.ndarray], tolerance: float) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        if a.dtype.kind == "i":
            np.testing.assert_array_equal(a, b)
        else:
            assert np.abs(a - b).max() <= tolerance * np.abs(b).max()


@pytest.mark.parametrize(("spec", "sizes"), CASES)
def test_reference_computes_the_published_maths(spec, sizes):
    inputs = spec.make(np.random.default_rng(1), **sizes)
    check_close(spec.run(spec.reference, inputs), getattr(oracles, spec.name)(**inputs), spec.tolerance)


@pytest.mark.parametrize(("spec", "sizes"), CASES)
def test_op_agrees_with_its_reference(spec, sizes):
    inputs = spec.make(np.random.default_rng(2), **sizes)
    check_close(spec.run(spec.op, inputs), spec.run(spec.reference, inputs), spec.tolerance)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_only_declared_arguments_are_changed(spec):
    inputs = spec.make(np.random.default_rng(3), **spec.test_sizes[-1])
    before = {name: xp.to_numpy(value) for name, value in inputs.items() if hasattr(value, "is_contiguous")}
    spec.op(**inputs)
    changed = {name for name, old in before.items() if not np.array_equal(old, xp.to_numpy(inputs[name]))}
    assert changed == set(spec.writes)


@pytest.mark.skipif(xp.name == "torch", reason="this run is on torch")
def test_all_of_this_holds_on_torch_too():
    folder = Path(__file__).parent
    files = [str(folder / name) for name in ("test_specs.py", "test_tensor_surface.py", "test_goldens.py")]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
    environment = {**os.environ, "ERNIE_TENSOR_FRAMEWORK": "torch"}
    result = subprocess.run(command, env=environment, cwd=folder.parents[1], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]
