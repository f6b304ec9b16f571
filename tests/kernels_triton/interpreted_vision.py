"""Logits of a saved model that sees, on the GPU's path with interpreted kernels (test_gpu_vision): writes them beside the checkpoint.

python -m tests.kernels_triton.interpreted_vision FOLDER, under ERNIE_TENSOR_FRAMEWORK=torch.
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

from tests.kernels_triton.interpreted_engine import pretend_to_be_a_gpu


def main(folder: Path) -> None:
    pretend_to_be_a_gpu()
    import numpy as np

    import ernie_kernels.launch

    ernie_kernels.launch.use_device = lambda device: None  # there is no libcuda
    from ernie_backend.config import EngineConfig, ModelConfig
    from ernie_backend.core.outputs import NewSequence, ScheduledSequence, SchedulerOutput
    from ernie_backend.execution.input_batch import build_input_batch
    from ernie_backend.execution.model_runner import ModelRunner
    from ernie_backend.execution.weights import load_model
    from ernie_backend.protocol import SamplingParams
    from ernie_kernels import xp

    prompt = pickle.loads((folder / "prompt.pickle").read_bytes())
    config = ModelConfig.from_folder(folder)
    engine = EngineConfig(str(folder), max_model_len=128, max_num_seqs=1).resolved(config)
    runner = ModelRunner(load_model(folder, config, progress=False), config, engine, num_blocks=2)
    new = NewSequence(0, tuple(prompt.token_ids), SamplingParams(max_tokens=1), None, prompt.media)
    runner.states[0] = runner._state(new)
    step = SchedulerOutput((), (ScheduledSequence(0, 0, len(prompt.token_ids), (0, 1), samples=True),), ())
    assert runner.media is not None
    batch = build_input_batch(step, runner.states, engine.block_size_tokens, runner.media.prepare(step, runner.states))
    hidden = runner.model.forward(batch)
    np.save(folder / "logits.npy", xp.to_numpy(runner.model.logits(hidden)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
