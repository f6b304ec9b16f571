"""The copy of Triton's Python backend that waits for longer: that it does is shown by tests/e2e/test_faults.py."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from ernie_backend.cli.patient_backend import link_library, patient_library
from ernie_backend.cli.tritonserver import CONTAINER_ROOT, find_installation


def test_only_the_wait_differs() -> None:
    installation = find_installation()
    if platform.machine() != "x86_64" or installation.program.is_relative_to(CONTAINER_ROOT):
        pytest.skip("not the library of the wheel for x86-64")
    library = (installation.backend / "libtriton_python.so").read_bytes()
    patient = patient_library(library)
    assert patient is not None and len(patient) == len(library)
    changed = [at for at, (old, new) in enumerate(zip(library, patient, strict=True)) if old != new]
    assert changed and changed[-1] - changed[0] < 8
    first = changed[0]
    assert int.from_bytes(patient[first : first + 8], "little") - int.from_bytes(library[first : first + 8], "little") == 9_000_000


def test_an_unknown_library_is_left_as_it_is(tmp_path: Path) -> None:
    (source := tmp_path / "source.so").write_bytes(b"another build")
    target = tmp_path / "libtriton_python.so"
    target.write_bytes(b"of an earlier start")
    link_library(source, target)
    assert target.is_symlink() and target.resolve() == source
    assert sorted(path.name for path in tmp_path.iterdir()) == ["libtriton_python.so", "source.so"]
