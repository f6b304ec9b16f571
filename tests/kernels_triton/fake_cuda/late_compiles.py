"""Which kernels are compiled by steps behind the warm-up, over the fake libcuda: each would make everybody wait. Prints JSON.

python -m tests.kernels_triton.fake_cuda.late_compiles {dense,moe,vl} MAX_MODEL_LEN MAX_NUM_BATCHED_TOKENS, a process of its own like
`launches`. Nothing is computed, so that what is sampled means nothing.
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


def main(kind: str, max_model_len: int, max_num_batched_tokens: int) -> dict[str, Any]:
    from ernie_backend.checkpoint_writer.published import make_config
    from ernie_backend.config import EngineConfig
    from ernie_backend.core.outputs import ModelRunnerOutput, NewSequence, ScheduledSequence, SchedulerOutput
    from ernie_backend.execution.model_runner import ModelRunner
    from ernie_backend.execution.random_model import random_model
    from ernie_backend.protocol import MediaItem, MediaKind, SamplingParams

    like, settings = MODELS[kind]
    config = make_config(like, "pt", "bfloat16", [*_SIZES, "num_attention_heads=4", *settings, *_EXPERTS.get(kind, ())])[1]
    limits = {"max_model_len": max_model_len, "max_num_seqs": 8, "max_num_batched_tokens": max_num_batched_tokens}
    engine = EngineConfig("random", **limits).resolved(config)  # type: ignore[arg-type]
    runner = ModelRunner(random_model(config), config, engine, num_blocks=max_model_len // 64 + 8)
    assert runner.graphs is not None
    runner.graphs.sampler.receive = lambda pending: ModelRunnerOutput({}, {})  # type: ignore[method-assign]
    compiled: list[str] = []
    triton.knobs.runtime.jit_post_compile_hook = lambda **told: compiled.append(told["fn"].name.split(".")[-1])
    runner.warm_up()
    at_start, late = len(compiled), []
    rng = random.Random(0)

    def prompt(number: int, most: int) -> tuple[NewSequence, ScheduledSequence]:
        """Of text and perhaps an image, at most `most` tokens, all in this step."""
        media, count, text = (), 0, min(most, int(2 ** rng.uniform(0, 11.5)))
        if config.vision is not None and rng.random() < 0.8:
            height = rng.randint(1, 40)
            width = min(40, (most - 1) // height)
            count = height * width
            text = min(text, most - count)
            if count:
                pixels = bytes(count * 4 * config.vision.patch_width)
                media = (MediaItem(MediaKind.IMAGE, pixels, (1, 2 * height, 2 * width), text, count, str(number).encode()),)
        new = NewSequence(number, (0,) * (text + count), SamplingParams(max_tokens=1), 0, media)
        blocks = tuple(range(-(-(text + count) // engine.block_size_tokens)))
        return new, ScheduledSequence(number, 0, text + count, blocks, samples=True)

    for step in range(_STEPS):
        prompts, left = [], max_num_batched_tokens
        while left and len(prompts) < rng.choice((1, 1, 2, 4, 8)):
            prompts.append(prompt(8 * step + len(prompts), min(left, max_model_len - 1)))
            left -= prompts[-1][1].num_scheduled_tokens
        before = len(compiled)
        new, scheduled = zip(*prompts, strict=True)
        runner.launch(SchedulerOutput(new, scheduled, ()))
        runner.launch(SchedulerOutput((), (), tuple(each.sequence_id for each in scheduled)))
        late += [(name, [(len(each.prompt_token_ids), bool(each.media)) for each in new]) for name in compiled[before:]]
    return {"at start": at_start, "late": late}


if __name__ == "__main__":
    sys.modules["torch"] = None  # type: ignore[assignment]  # as on a host that has none
    pretend_to_be_a_gpu()
    xp.matmul_transposed = lambda a, b: xp.empty([a.shape[0], b.shape[0]], "bfloat16")  # Paddle's CPU build has none of bfloat16
    use_device = launch.use_device
    launch.use_device = lambda device: use_device(HopperWithoutHopper())  # type: ignore[assignment]  # not what Paddle says on a CPU
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
