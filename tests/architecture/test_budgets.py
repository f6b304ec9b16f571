"""Sizes that a reader can hold: a file ≤ 400 lines, a function ≤ 60, a device kernel ≤ 120."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.architecture.sources import ROOT, python_files

FILE_LINES, FUNCTION_LINES, KERNEL_LINES = 400, 60, 120


@pytest.mark.parametrize("path", python_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_budgets(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    lines = len(text.splitlines())
    assert lines <= FILE_LINES, f"{lines} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            limit = KERNEL_LINES if _is_kernel(node) else FUNCTION_LINES
            assert length <= limit, f"{node.name} (line {node.lineno}) has {length} lines, at most {limit}"


def _is_kernel(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Decorated as compiled code: `@triton.jit`, `@kernel(…)`."""
    names = {ast.unparse(decorator).partition("(")[0].rpartition(".")[2] for decorator in node.decorator_list}
    return bool(names & {"jit", "kernel"})


def test_modules_begin_with_what_they_own() -> None:
    silent = []
    for path in python_files():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if tree.body and ast.get_docstring(tree) is None:
            silent.append(str(path.relative_to(ROOT)))
    assert not silent
