"""Nothing that is served turns bytes into code: no pickle under any of its names, no eval, no shell."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.architecture.sources import PACKAGE_ROOTS, ROOT, imports

MODULES = ("pickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal")
CALLS = ("torch.load", "paddle.load", "numpy.load", "np.load", "yaml.load", "eval", "exec", "os.system", "os.popen")
ARGUMENTS = {"allow_pickle": "True", "shell": "True", "weights_only": "False"}

SERVED = [path for folder in (*PACKAGE_ROOTS, "model_repository") for path in sorted((ROOT / folder).rglob("*.py"))]


def faults(text: str, path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            given = {f"{keyword.arg}={ast.unparse(keyword.value)}" for keyword in node.keywords}
            wrong = [f"{key}={value}" for key, value in ARGUMENTS.items() if f"{key}={value}" in given]
            found += [f"{path.name}:{node.lineno}: {name} {' '.join(wrong)}"] if name in CALLS or wrong else []
    return found


@pytest.mark.parametrize("path", SERVED, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_turns_bytes_into_code(path: Path) -> None:
    assert not [target for target in imports(path.stem, path) if target.split(".")[0] in MODULES]
    assert not faults(path.read_text(encoding="utf-8"), path)


def test_the_rule_sees_what_it_forbids() -> None:
    assert len(faults("import numpy as np\nnp.load(p)\nf(p, allow_pickle=True)\neval('1')\nrun(c, shell=True)", Path("x.py"))) == 4
