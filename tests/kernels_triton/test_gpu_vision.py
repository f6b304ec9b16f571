"""Models that see on the GPU's path, kernels interpreted: logits against transformers, and batched answers against lone ones."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.parity.vision_checkpoints import make_model, make_prompt

_TEXT = {
    **{"vocab_size": 512, "num_hidden_layers": 2, "hidden_size": 512, "intermediate_size": 256, "max_position_embeddings": 512},
    **{"num_attention_heads": 4, "num_key_value_heads": 1},
}
_EXPERTS = {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": [256, 256], "moe_num_shared_experts": 1}
_OCR_TOWER = {"num_hidden_layers": 1, "hidden_size": 144, "intermediate_size": 100, "num_attention_heads": 2, "image_size": 98}
CASES = {
    "vl": {
        "text_config": {**_TEXT, **_EXPERTS},
        "vision_config": {"depth": 1, "hidden_size": 160, "intermediate_size": 192, "num_heads": 2, "patch_size": 14},
    },
    "ocr": {"text_config": {**_TEXT, "head_dim": 128, "num_hidden_layers": 1}, "vision_config": _OCR_TOWER},
}


def run(module: str, argument: str) -> str:
    environment = {**os.environ, "ERNIE_TENSOR_FRAMEWORK": "torch", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", f"tests.kernels_triton.{module}", argument]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert answer.returncode == 0, answer.stderr[-3000:]
    return answer.stdout


@pytest.mark.parametrize("name", list(CASES))
def test_logits(name: str, tmp_path) -> None:
    """bfloat16 activations against float32 on the same bfloat16 weights."""
    model = make_model(name, seed=2, case=CASES[name]).to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    model = type(model).from_pretrained(tmp_path, dtype=torch.float32).eval()
    prompt = make_prompt(1, [3, (1, 4, 6), 4, (1, 2, 4), 5])
    (tmp_path / "prompt.pickle").write_bytes(pickle.dumps(prompt))
    run("interpreted_vision", str(tmp_path))
    given = prompt.theirs([])
    if name == "ocr":
        del given["moe_mm_token_type_ids"]
        given["pixel_values"] = given["pixel_values"].reshape(-1, 3, 14, 14)
    with torch.no_grad():
        theirs = model(**given).logits[0].numpy()
    ours = np.load(tmp_path / "logits.npy")
    assert np.linalg.norm(ours - theirs) / np.linalg.norm(theirs) < 0.02


@pytest.mark.parametrize("name", list(CASES))
def test_batched_a_step_ahead_equals_alone(name: str) -> None:
    """With an order of sums that does not depend on the batch: text beside images, chunks of images beside single tokens."""
    alone, batched = json.loads(run("interpreted_engine", name).splitlines()[-1])
    assert alone == batched and [len(alone[key]) for key in ("0", "1")] == [3, 3]
