"""A whole decode step as production would launch it, with Paddle tensors over the fake libcuda; prints its launches as JSON.

python -m tests.kernels_triton.fake_cuda.decode_step {dense,moe} BATCH…, a process of its own like `launches`.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from ernie_kernels import launch
from tests.kernels_triton.fake_cuda.launches import FIELDS, HopperWithoutHopper
from tests.kernels_triton.interpreted_engine import pretend_to_be_a_gpu, small_config


def main(kind: str, batches: list[int]) -> dict[int, list[dict[str, int | str]]]:
    from ernie_backend.config import EngineConfig
    from ernie_backend.execution.model_runner import ModelRunner
    from ernie_backend.execution.random_model import random_model

    config = small_config(kind)
    engine = EngineConfig("random", max_model_len=128, max_num_seqs=max(batches), max_num_batched_tokens=max(batches)).resolved(config)
    graphs = ModelRunner(random_model(config), config, engine, num_blocks=4).graphs
    assert graphs is not None
    log, found = Path(os.environ["FAKE_CUDA_LOG"]), {}
    for batch in batches:
        log.write_text("")
        graphs._decode(batch, truncated=False)
        lines = (line.split() for line in log.read_text().splitlines())
        found[batch] = [{"kernel": kernel, **dict(zip(FIELDS, map(int, numbers), strict=True))} for kernel, *numbers in lines]
    return found


if __name__ == "__main__":
    sys.modules["torch"] = None  # type: ignore[assignment]  # as on a host that has none
    pretend_to_be_a_gpu()
    use_device = launch.use_device
    launch.use_device = lambda device: use_device(HopperWithoutHopper())  # type: ignore[assignment]  # not what Paddle says on a CPU
    print(json.dumps(main(sys.argv[1], list(map(int, sys.argv[2:])))))
