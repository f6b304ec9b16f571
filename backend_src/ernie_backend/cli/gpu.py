"""Which GPUs this machine has, asked without importing a framework."""

from __future__ import annotations

import shutil
import subprocess


def gpu_names() -> list[str]:
    """Names as nvidia-smi lists them; empty without a GPU or driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        answer = subprocess.run(
            [program, "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in answer.stdout.splitlines() if line.strip()]
