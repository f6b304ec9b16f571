"""`python -m tests.bench.host_steps`: µs of Python per decode step, by part; the real engine, scheduler and GPU runner on an idle GPU.

Graphs replay nothing and tokens come from memory that never changes, so that what is left is the host's own work: on a GPU it must stay
below a step of the model. Half of the sequences are greedy, half draw with temperature and top_p; no answer ends meanwhile. Delivery, which
has a thread of its own but the same interpreter lock, is timed apart: every stream's window is opened by one response every eight steps.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("ERNIE_TENSOR_FRAMEWORK", "torch")
os.environ["OMP_NUM_THREADS"] = "1"  # what stands for a copy to the GPU is not to wake threads

from tests.kernels_triton.interpreted_engine import pretend_to_be_a_gpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=lambda text: [int(part) for part in text.split(",")], default=[1, 64, 256])
    parser.add_argument("--steps", type=int, default=20, help="of a round")
    parser.add_argument("--rounds", type=int, default=100, help="the fastest counts")
    parser.add_argument("--max-model-len", type=int, default=8192)
    parser.add_argument("--turnover", action="store_true", help="before each step one answer ends and a prompt comes: no step is a graph")
    given = parser.parse_args()
    pretend_to_be_a_gpu()
    from tests.bench.host import measure  # binds operators

    columns = {batch: measure(batch, given.steps, given.rounds, given.max_model_len, given.turnover) for batch in given.batch}
    print(f"{'µs per step':>16}" + "".join(f"{batch:>10}" for batch in columns))
    for part in next(iter(columns.values())):
        if any(column[part] for column in columns.values()):
            print(f"{part:>16}" + "".join(f"{column[part]:>10.1f}" for column in columns.values()))


if __name__ == "__main__":
    main()
