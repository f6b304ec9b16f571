"""Chooses, before any test imports a kernel, how Triton-language kernels run: interpreted wherever there is no NVIDIA GPU. And says what
belongs together where several processes share the tests (`make test`)."""

import contextlib
import os
import re
import shutil
import tempfile
from typing import Any

import pytest

from ernie_backend.log_format import current_request

if not os.path.exists("/dev/nvidia0"):
    os.environ["TRITON_INTERPRET"] = "1"

with contextlib.suppress(ImportError):  # tests/gpu does without it, and so may a host that has a GPU
    from hypothesis import settings

    settings.register_profile("the same cases each time", derandomize=True)
    settings.load_profile("the same cases each time")
    """A failure must be the change's, and come again. `--hypothesis-profile default` draws others each time."""

WORKER = os.environ.get("PYTEST_XDIST_WORKER")
if WORKER is not None:
    os.environ["TMPDIR"] = tempfile.tempdir = tempfile.mkdtemp(prefix=f"ernie-tests-{WORKER}-")
    """What servers leave behind is then known to be this process's."""

_STAY_TOGETHER = re.compile(
    r"tests/(?:(gpu|observed)/|e2e/test_(?:(api_fuzz|attacks|bench_server|kserve|many_streams|perf|tutorial)|(soak|slow_readers)))"
)
"""The tests of `tests/observed/`, and those that use `server` or `clock` of tests/e2e/conftest.py: in processes of their own they would do
as well, each with another server. And those that need the GPU for themselves."""
_FIRST = (_STAY_TOGETHER, re.compile("tests/kernels_triton/"), re.compile("tests/e2e/"))
"""What takes longest begins first, in this order. Servers mostly wait, kernels compute: side by side they leave no processor idle."""


@pytest.fixture(autouse=True)
def no_request_before() -> None:
    """A test that answered a request in this thread leaves its id to the log lines of the next."""
    current_request.set("")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: next((i for i, start in enumerate(_FIRST) if start.match(item.nodeid)), len(_FIRST)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A process takes one file after another; files that share a server or a GPU count as one."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            shared = _STAY_TOGETHER.match(nodeid)
            return f"group {shared[1] or shared.lastindex}" if shared else nodeid.partition("::")[0]

    config.option.loadscopereorder = False
    return ByFile(config, log)


def pytest_unconfigure() -> None:
    if WORKER is not None:
        shutil.rmtree(os.environ["TMPDIR"], ignore_errors=True)
