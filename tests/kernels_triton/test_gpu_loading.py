"""What a GPU makes of a checkpoint's precision, and says of it: real loading, with nothing but the device pretended."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.execution.tiny import write_tiny

SCRIPT = """
import logging, sys
from pathlib import Path
from tests.kernels_triton.interpreted_engine import pretend_to_be_a_gpu
pretend_to_be_a_gpu()
from ernie_backend.config import ModelConfig
from ernie_backend.execution.weights import load_model
logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stdout)
for name in sys.argv[1:]:
    print(name)
    model = load_model(name, ModelConfig.from_folder(Path(name)), progress=False)
    print("kept as", model.layers[1].attention.qkv.array.dtype)
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Stored dtype → what loading said."""
    root = tmp_path_factory.mktemp("precisions")
    write_tiny(root / "bfloat16", dtype="bfloat16")
    for name, dtype in (("float32", np.float32), ("float16", np.float16)):
        write_tiny(root / name)
        file = root / name / "model.safetensors"
        save_file({key: array.astype(dtype) for key, array in load_file(file).items()}, file)
    command = [sys.executable, "-c", SCRIPT, *(str(root / name) for name in ("bfloat16", "float32", "float16"))]
    environment = os.environ | {"ERNIE_TENSOR_FRAMEWORK": "torch", "TRITON_INTERPRET": "1"}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert ended.returncode == 0, ended.stderr
    parts: dict[str, list[str]] = {}
    for line in ended.stdout.splitlines():
        if line.startswith("/"):
            parts[Path(line).name] = lines = []
        else:
            lines.append(line)
    return parts


@pytest.mark.parametrize("stored", ["float16", "float32"])
def test_rounding_is_told_in_one_line(said: dict[str, list[str]], stored: str) -> None:
    told, kept = said[stored]
    assert kept == "kept as torch.bfloat16"
    assert told.startswith("WARNING ") and f"matrices are stored as {stored}; a GPU computes in bfloat16" in told and "0.4 %" in told


def test_where_nothing_is_rounded_nothing_is_told(said: dict[str, list[str]]) -> None:
    assert said["bfloat16"] == ["kept as torch.bfloat16"]
