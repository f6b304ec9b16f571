"""The GPU engine on a CPU: real runner, sampler and kernels, interpreted; a graph replays by running again. Prints JSON (test_gpu_engine).

python -m tests.kernels_triton.interpreted_engine {dense,moe,vl,ocr}, under ERNIE_TENSOR_FRAMEWORK=torch or paddle (whose CPU build has no
product of bfloat16 matrices, which images need).
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

if __name__ == "__main__":
    os.environ["TRITON_INTERPRET"] = "1"

import numpy as np

from ernie_backend.config import ModelConfig
from ernie_backend.protocol import MediaItem, MediaKind
from ernie_kernels import xp

END, END_OF_THOUGHT = 630, 631
THOUGHT: dict[str, Any] = {"thought_end_id": END_OF_THOUGHT, "reasoning_max_tokens": 1, "thought_closing_ids": (10, 631), "grammar": "x"}


def vocabulary() -> Any:
    """Ids 0 to 255 are bytes."""
    from ernie_backend.execution.constraint import Vocabulary

    token_bytes = [bytes([i]) if i < 256 else f"<{i}>".encode() for i in range(640)]
    return Vocabulary(token_bytes, frozenset(range(256, 640)), [END], 640, lambda text: list(text.encode()))


class Done:
    def record(self) -> None:
        pass

    def synchronize(self) -> None:
        pass


class Recorded:
    """What a captured graph would do."""

    def __init__(self, function: Callable[[], None]) -> None:
        self.replay = function


def _from_numpy(array: np.ndarray) -> xp.Tensor:
    tensor = xp.empty(array.shape, array.dtype.name)
    xp.host_view(tensor)[...] = array
    return tensor


def pretend_to_be_a_gpu() -> None:
    """Before anything binds operators. What stays untested is what only a GPU has: streams, events, captures, page-locked memory."""
    replaced = {
        "on_gpu": True,
        "event": Done,
        "capture": Recorded,
        "synchronize": lambda: None,
        "pinned": xp.zeros,
        "from_numpy": _from_numpy,
    }
    for name, value in replaced.items():
        setattr(xp, name, value)
    sys.modules[f"ernie_kernels.xp._{xp.name}"].on_gpu = True  # type: ignore[attr-defined]


_VL_TOWER = ("depth=1", "embed_dim=160", "num_heads=2", "mlp_ratio=2")
_OCR_TOWER = ("num_hidden_layers=1", "hidden_size=144", "num_attention_heads=2", "intermediate_size=100")
MODELS: dict[str, tuple[str, list[str]]] = {
    "dense": ("ERNIE-4.5-0.3B", []),
    "moe": ("ERNIE-4.5-21B-A3B", ["moe_intermediate_size=256", "moe_num_experts=4", "moe_k=2"]),
    "vl": (
        "ERNIE-4.5-VL-28B-A3B",
        ["moe_intermediate_size=[256,256]", "moe_num_experts=[4,4]", "moe_k=2", *(f"vision_config.{setting}" for setting in _VL_TOWER)],
    ),
    "ocr": ("PaddleOCR-VL-0.9B", [f"vision_config.{setting}" for setting in _OCR_TOWER]),
}


def see(rng: np.random.Generator, *grids: tuple[int, int, int]) -> tuple[list[int], tuple[MediaItem, ...]]:
    """A prompt of text and images of these grids."""
    ids, media = rng.integers(0, 600, 3).tolist(), []
    for _, height, width in grids:
        pixels = rng.integers(0, 256, height * width * 588, np.uint8).tobytes()
        count = height * width // 4
        media.append(MediaItem(MediaKind.IMAGE, pixels, (1, height, width), len(ids), count, hashlib.md5(pixels).digest()))
        ids += [*[630] * count, *rng.integers(0, 600, 2).tolist()]
    return ids, tuple(media)


def small_config(kind: str) -> ModelConfig:
    from ernie_backend.checkpoint_writer.published import make_config

    sizes = [
        f"num_hidden_layers={2 if kind in ('moe', 'vl') else 1}",
        "hidden_size=512",
        "intermediate_size=512",
        "vocab_size=640",
        "num_key_value_heads=1",
    ]
    like, more = MODELS[kind]
    return make_config(like, "pt", "bfloat16", [*sizes, "num_attention_heads=4", *more])[1]


def main(kind: str) -> None:
    pretend_to_be_a_gpu()
    import ernie_kernels.launch

    ernie_kernels.launch.use_device = lambda device: None  # there is no libcuda
    from ernie_backend.config import EngineConfig
    from ernie_backend.core.engine_core import EngineCore
    from ernie_backend.core.scheduler import Scheduler
    from ernie_backend.execution.constraint import GrammarCompiler
    from ernie_backend.execution.model_runner import ModelRunner
    from ernie_backend.execution.random_model import random_model
    from ernie_backend.protocol import GenerateRequest, SamplingParams

    config = small_config(kind)
    getattr(importlib.import_module(xp.name), {"paddle": "seed", "torch": "manual_seed"}[xp.name])(0)
    model = random_model(config)
    rng = np.random.default_rng(0)
    sampling = [
        SamplingParams(max_tokens=3, temperature=0.0),
        SamplingParams(max_tokens=3, temperature=0.9, top_p=0.9, repetition_penalty=1.2, presence_penalty=0.5, seed=3, logprobs=1),
        SamplingParams(max_tokens=4, temperature=1.0, seed=4, min_tokens=2, eos_token_ids=tuple(range(0, 640, 2))),
        SamplingParams(max_tokens=9, temperature=0.9, top_p=0.9, seed=5, eos_token_ids=(END,), **THOUGHT),
        SamplingParams(max_tokens=9, seed=6, eos_token_ids=(END,), grammar="x", presence_penalty=0.5),
    ]
    matchers: list[Any] = []
    GrammarCompiler(vocabulary()).compile("start: /[a-c]x/", matchers.append, matchers.append, lambda: True)
    while not matchers:
        time.sleep(0.01)
    prompts: list[tuple[list[int], tuple[MediaItem, ...]]] = [(rng.integers(0, 640, length).tolist(), ()) for length in (3, 18, 2, 4, 5)]
    if config.vision is not None:
        prompts = [see(rng, *grids) for grids in (((1, 4, 6),), (), ((1, 2, 4), (1, 4, 4)))]
    requests = [
        GenerateRequest(str(i), tuple(ids), params, media=media, matcher=matchers[0] if i > 2 else None)
        for i, ((ids, media), params) in enumerate(zip(prompts, sampling[: len(prompts)], strict=True))
    ]

    def answers(steps_ahead: int, requests: list[GenerateRequest], *, prompt_graphs: bool = True) -> dict[str, list[int]]:
        # The order of a sum must not depend on the step: a graph pads one, and a step ahead cuts them otherwise.
        settings = {"max_model_len": 128, "max_num_seqs": 2, "max_num_batched_tokens": 16, "deterministic": True}
        engine = EngineConfig("random", **settings).resolved(config)  # type: ignore[arg-type]
        runner = ModelRunner(model, config, engine, num_blocks=4)
        runner.steps_ahead = steps_ahead
        if not prompt_graphs:
            runner.graphs.prompts.bucket = lambda layout: None  # type: ignore[method-assign, union-attr]
        core = EngineCore(Scheduler(engine, 4), runner)
        for request in requests:
            core.add(request)
        found: dict[str, list[int]] = {}
        while core.has_work:
            for event in core.step().events:
                assert event.error is None, event
                found.setdefault(event.key, []).extend(event.token_ids)
            core.scheduler.check_invariants()
        return found

    if config.vision is None:
        print(json.dumps([answers(0, requests, prompt_graphs=False), answers(1, requests)]))
        return
    alone = [answers(0, [request], prompt_graphs=False) for request in requests]
    print(json.dumps([{key: ids for one in alone for key, ids in one.items()}, answers(1, requests)]))


if __name__ == "__main__":
    main(sys.argv[1])
