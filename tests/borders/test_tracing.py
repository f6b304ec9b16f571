"""Tracing that nobody asked for costs nothing: its library is not even imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import sys
from ernie_backend.config import EngineConfig
from ernie_backend.triton_adapter import engine, postprocess_model, preprocess_model
from ernie_backend.triton_adapter.settings import set_up_process
from ernie_openai.server import worker_app
from ernie_openai.settings import FrontendSettings
import asyncio

async def front_end():
    worker_app(FrontendSettings("127.0.0.1:1", "http://127.0.0.1:1/metrics"), grace_seconds=1)

assert set_up_process(EngineConfig(model="m"), "engine") is None
asyncio.run(front_end())
print(sorted(name for name in sys.modules if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter"))))  # fastapi brings the API
"""


@pytest.mark.parametrize(
    "more", ["", "set_up_process(EngineConfig(model='m', otlp_traces_endpoint='http://127.0.0.1:1'), 'engine').close()\n"]
)
def test_the_library_is_imported_only_where_it_was_asked_for(more: str) -> None:
    last = SCRIPT.rindex("print(")
    script = SCRIPT[:last] + more + SCRIPT[last:]
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert answer.returncode == 0, answer.stderr
    assert ("opentelemetry.sdk.trace" in answer.stdout) == bool(more)
    assert more or answer.stdout == "[]\n"
