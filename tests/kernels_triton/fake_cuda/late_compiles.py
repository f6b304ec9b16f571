"""Which kernels are compiled by steps behind the warm-up, over the fake libcuda: each would make everybody wait. Prints JSON.

python -m tests.kernels_triton.fake_cuda.late_compiles {dense,moe,vl}, a process of its own like `launches`. Nothing is computed, so that
what is sampled means nothing.
"""

from __future__ import annotations

import json
import random
import sys
from typing import Any

import triton

from ernie_kernels import launch, xp
from tests.kernels_triton.fake_cuda.launches import HopperWithoutHopper
from tests.kernels_triton.interpreted_engine import MODELS, pretend_to_be_a_gpu

_STEPS = 150
_SIZES = ("num_hidden_layers=2", "hidden_size=512", "intermediate_size=512", "vocab_size=640", "num_key_value_heads=1")
_EXPERTS = {"moe": ("moe_num_experts=64", "moe_k=6"), "vl": ("moe_num_experts=[64,64]", "moe_k=6", "moe_intermediate_size=[256,128]")}


def main(kind: str) -> dict[str, Any]:
    from ernie_backend.checkpoint_writer.published import make_config
    from ernie_backend.config import EngineConfig
    from ernie_backend.core.outputs import ModelRunnerOutput, NewSequence, ScheduledSequence, SchedulerOutput
    from ernie_backend.execution.model_runner import ModelRunner
    from ernie_backend.execution.random_model import random_model
    from ernie_backend.protocol import MediaItem, MediaKind, SamplingParams

    like, settings = MODELS[kind]
    config = make_config(like, "pt", "bfloat16", [*_SIZES, "num_attention_heads=4", *settings, *_EXPERTS.get(kind, ())])[1]
    engine = EngineConfig("random", max_model_len=8192, max_num_seqs=8, max_num_batched_tokens=8192).resolved(config)
    runner = ModelRunner(random_model(config), config, engine, num_blocks=160)
    assert runner.graphs is not None
    runner.graphs.sampler.receive = lambda pending: ModelRunnerOutput({}, {})  # type: ignore[method-assign]
    compiled: list[str] = []
    triton.knobs.runtime.jit_post_compile_hook = lambda **told: compiled.append(told["fn"].name.split(".")[-1])
    runner.warm_up()
    at_start, late = len(compiled), []
    rng = random.Random(0)
    for step in range(_STEPS):
        text = int(2 ** rng.uniform(0, 11.5))
        grid = (1, 2 * rng.randint(1, 40), 2 * rng.randint(1, 40))
        count = grid[1] * grid[2] // 4 if config.vision is not None else 0
        pixels = bytes(count * 4 * config.vision.patch_width) if config.vision is not None else b""
        media = (MediaItem(MediaKind.IMAGE, pixels, grid, text, count, str(step).encode()),) if count else ()
        new = NewSequence(step, (0,) * (text + count), SamplingParams(max_tokens=1), 0, media)
        blocks = tuple(range(-(-(text + count) // engine.block_size_tokens)))
        before = len(compiled)
        runner.launch(SchedulerOutput((new,), (ScheduledSequence(step, 0, text + count, blocks, samples=True),), ()))
        runner.launch(SchedulerOutput((), (), (step,)))
        late += [(name, text, grid[1:]) for name in compiled[before:]]
    return {"at start": at_start, "late": late}


if __name__ == "__main__":
    sys.modules["torch"] = None  # type: ignore[assignment]  # as on a host that has none
    pretend_to_be_a_gpu()
    xp.matmul_transposed = lambda a, b: xp.empty([a.shape[0], b.shape[0]], "bfloat16")  # Paddle's CPU build has none of bfloat16
    use_device = launch.use_device
    launch.use_device = lambda device: use_device(HopperWithoutHopper())  # type: ignore[assignment]  # not what Paddle says on a CPU
    print(json.dumps(main(sys.argv[1])))
