"""The engine as it runs on a GPU, with interpreted kernels and Paddle's tensors: a step ahead or in turn, it gives the same tokens."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys


def in_turn_and_ahead(framework: str, kind: str) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    environment = {**os.environ, "ERNIE_TENSOR_FRAMEWORK": framework, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.kernels_triton.interpreted_engine", kind]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert answer.returncode == 0, answer.stderr[-3000:]
    in_turn, ahead = json.loads(answer.stdout.splitlines()[-1])
    return in_turn, ahead


def test_a_step_ahead_equals_in_turn() -> None:
    in_turn, ahead = in_turn_and_ahead("paddle", "moe")
    assert in_turn == ahead
    assert [len(in_turn[key]) for key in ("0", "1")] == [3, 3] and 2 <= len(in_turn["2"]) <= 4
    thought, said, freely = in_turn["3"][:1], in_turn["3"][1:], in_turn["4"]
    assert 630 not in thought and said[:2] == [10, 631], "the budget closes the thought"
    for ids in (said[2:], freely):
        assert re.fullmatch(r"[a-c]x", bytes(ids[:-1]).decode()) and ids[-1] == 630, "the grammar is kept, and ends the answer"


def test_images_in_graphs_of_prompts_equal_each_request_alone() -> None:
    """PaddleOCR-VL's, on PyTorch's tensors: Paddle's CPU build has no product of bfloat16 matrices, which images need."""
    alone, together = in_turn_and_ahead("torch", "ocr")
    assert alone == together and [len(alone[key]) for key in ("0", "1")] == [3, 3]
