"""The copy of Triton's Python backend that waits for longer: that it does is shown by tests/e2e/test_faults.py."""

from __future__ import annotations

import errno
import mmap
import platform
from pathlib import Path

import pytest

from ernie_backend.cli import patient_backend
from ernie_backend.cli.patient_backend import patient_library, put_library
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
    put_library(source, target)
    assert target.is_symlink() and target.resolve() == source
    assert sorted(path.name for path in tmp_path.iterdir()) == ["libtriton_python.so", "source.so"]


@pytest.mark.parametrize(
    ("holder", "name", "number"), [(mmap, "mmap", errno.EPERM), (Path, "write_bytes", errno.ENOSPC)], ids=["noexec", "full disk"]
)
def test_where_no_copy_can_be_used_it_is_linked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, holder: object, name: str, number: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, "the system's words")

    (source := tmp_path / "source.so").write_bytes(b"known")
    target = tmp_path / "libtriton_python.so"
    monkeypatch.setattr(patient_backend, "patient_library", lambda library: b"patient")
    put_library(source, target)
    assert target.read_bytes() == b"patient" and target.stat().st_mode == source.stat().st_mode
    monkeypatch.setattr(holder, name, refuse)
    put_library(source, target)
    assert target.resolve() == source
    assert "the system's words" in caplog.text and str(tmp_path) in caplog.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["libtriton_python.so", "source.so"]
