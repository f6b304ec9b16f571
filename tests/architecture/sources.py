"""Our source files and what they import, read with `ast`; nothing is imported."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE_ROOTS = ("kernels", "backend_src", "openai_frontend")
OURS = ("ernie_kernels", "ernie_backend", "ernie_openai", "ernie_demo", "ernie_demo_model")


def module_files() -> dict[str, Path]:
    """Dotted name → file, of every module of ours."""
    files = {}
    for root in PACKAGE_ROOTS:
        for path in (ROOT / root).rglob("*.py"):
            parts = path.relative_to(ROOT / root).with_suffix("").parts
            files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return files


def imports(name: str, path: Path) -> Iterator[str]:
    """Every name that a module imports, absolute; `from a import b` gives `a.b`, which may be a module or not."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def is_within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


def python_files() -> list[Path]:
    """Every Python file of the project, tests and models included."""
    return [path for folder in (*PACKAGE_ROOTS, "model_repository", "tests", "docker") for path in sorted((ROOT / folder).rglob("*.py"))]


def tracked_files() -> list[Path]:
    """What git tracks; outside a checkout (a release archive) the test that needs it has nothing to say."""
    answer = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    return [path for name in answer.stdout.split("\0") if name and (path := ROOT / name).is_file()]
