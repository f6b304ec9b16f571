"""What the processes that `serve` starts take from where it was started, and how they end: one server for both."""

from __future__ import annotations

import base64
import os
import re
from pathlib import Path

import httpx
import pytest

from ernie_backend.cli.processes import is_running
from tests.architecture.sources import ROOT
from tests.e2e.faults import helpers, processes
from tests.e2e.server import descendants, running_server

TRAPS = (
    *("json", "logging", "numpy", "paddle", "typing", "sitecustomize", "usercustomize", "triton_python_backend_utils"),
    *("ernie_backend", "ernie_kernels", "ernie_openai", "uvicorn", "fastapi", "grpc", "jinja2", "llguidance", "PIL", "av"),
)
"""Modules that one child or another imports, and those that Python itself looks for."""
FAULT = re.compile(
    r"Segmentation fault|SIGSEGV|SIGABRT|terminate called|Fatal|core dumped|Traceback|had to be killed|tub process .* is not"
)


def set_traps(folder: Path) -> Path:
    """A module of each name that leaves word and ends the process. The file where the word would be."""
    told = folder / "told"
    for name in TRAPS:
        trap = f"open({str(told)!r}, 'a').write(__name__ + ' ')\nraise SystemExit({name!r})\n"
        (folder / f"{name}.py").write_text(trap, encoding="utf-8")
    return told


def mapped(pid: int) -> set[str]:
    """The files that a process has in its memory."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    except OSError:
        return set()
    return {line.split(maxsplit=5)[5] for line in lines if line.count("/")}


def test_children_run_no_module_of_the_folder_and_end_without_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kind of child is there: two workers of the front end, all models, the helpers for templates, grammars and images. A grammar's
    request leaves a ring behind that holds something of Triton's, which an engine must not free after Triton's shared memory has gone."""
    told = set_traps(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    picture = base64.b64encode((ROOT / "docs" / "shapes.png").read_bytes()).decode()
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}"}}
    message = {"role": "user", "content": [image, {"type": "text", "text": "Describe the image."}]}
    with running_server(None, workers=2) as server:
        for number in range(4):  # both processes of preprocess
            body = {"messages": [message], "max_tokens": 16, "enable_thinking": False, "guided_regex": f"[a-z]{{{number + 1}}}"}
            answer = httpx.post(f"{server.openai_url}/v1/chat/completions", json=body, timeout=120)
            assert answer.status_code == 200, answer.text
            assert len(answer.json()["choices"][0]["message"]["content"]) == number + 1
        assert helpers(server, "template_worker") and helpers(server, "grammar_worker")
        started = descendants(server.process.pid)
        (engine,) = processes(server, "ernie_engine/1")
        inside = [os.path.realpath(f"/proc/{pid}/cwd") for pid in started if is_running(pid)]
        assert str(tmp_path.resolve()) not in inside
        shared = {path for pid in started for path in mapped(pid) if path.endswith(".db")}
        assert shared and all("/ernie-triton-" in path for path in shared), "the workers' metrics go with the server's own folder"
    assert not told.exists(), f"run by a child: {told.read_text()}"
    faults = [line for line in server.log if FAULT.search(line)]
    assert not faults, faults
    assert not is_running(engine)
