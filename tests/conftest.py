"""Chooses, before any test imports a kernel, how Triton-language kernels run: interpreted wherever there is no NVIDIA GPU. And says what
belongs together where several processes share the tests (`make test`)."""

import os
import shutil
import tempfile

import pytest

if not os.path.exists("/dev/nvidia0"):
    os.environ["TRITON_INTERPRET"] = "1"

WORKER = os.environ.get("PYTEST_XDIST_WORKER")
if WORKER is not None:
    os.environ["TMPDIR"] = tempfile.tempdir = tempfile.mkdtemp(prefix=f"ernie-tests-{WORKER}-")
    """What servers leave behind is then known to be this process's."""

_FIRST = ("shared ", "tests/kernels_triton/", "tests/e2e/")
"""Groups that begin so, in this order, take longest. Servers mostly wait, kernels compute: side by side they leave no processor idle."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A process takes one file after another; those whose tests share a server stay together."""
    groups = {_file(item): _file(item) for item in items}
    for item in items:
        for name in _shared_servers(item):
            groups[_file(item)] = f"shared {name}"
    for item in items:
        item.add_marker(pytest.mark.xdist_group(groups[_file(item)]))
    items.sort(key=lambda item: next((i for i, start in enumerate(_FIRST) if groups[_file(item)].startswith(start)), len(_FIRST)))


def _shared_servers(item: pytest.Item) -> set[str]:
    """The names of the servers that it uses and that its module has not made for itself alone."""
    folder = _file(item).split("/")[1]
    used = {"server", "clock"} & set(getattr(item, "fixturenames", ())) if folder in ("e2e", "observed") else set()
    return {f"{name} of {folder}" for name in used if not hasattr(getattr(item, "module", None), name)}


def _file(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]


def pytest_unconfigure() -> None:
    if WORKER is not None:
        shutil.rmtree(os.environ["TMPDIR"], ignore_errors=True)
