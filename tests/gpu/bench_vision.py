"""Times the encoder of a model that sees on a GPU: full-size tower and connector, random weights, images of several sizes.

ERNIE_TENSOR_FRAMEWORK=torch PYTHONPATH=kernels:backend_src python tests/gpu/bench_vision.py [--like PaddleOCR-VL-0.9B] [--profile]
"""

from __future__ import annotations

import argparse
import statistics

import numpy as np

from ernie_backend.benchmark.timing import timed
from ernie_backend.checkpoint_writer.published import make_config
from ernie_backend.execution.random_model import random_model
from ernie_backend.protocol import MediaItem, MediaKind
from ernie_kernels import xp

GRIDS = ((1, 16, 16), (1, 34, 46), (1, 74, 74), (1, 116, 208), (16, 34, 46))
"""224², 480 × 640, 1024², 2160 × 3840, and a film of 16 frames of 480 × 640."""


def operations(config, grid: tuple[int, int, int]) -> float:
    """Of products in the tower, attention included; the connector adds about a tenth."""
    vision = config.vision
    frames, height, width = grid
    patches = frames * height * width
    per_patch = 2 * (4 * vision.hidden_size**2 + 2 * vision.hidden_size * vision.intermediate_size)
    return vision.num_layers * patches * (per_patch + 4 * height * width * vision.hidden_size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--like", default="ERNIE-4.5-VL-28B-A3B", choices=("ERNIE-4.5-VL-28B-A3B", "PaddleOCR-VL-0.9B"))
    parser.add_argument("--profile", action="store_true", help="the kernels of the image of 1024²")
    arguments = parser.parse_args()
    _, config = make_config(arguments.like, "pt", "bfloat16", ["num_hidden_layers=1"])
    model = random_model(config)
    for grid in GRIDS if config.architecture == "vl" else GRIDS[:-1]:
        pixels = np.random.default_rng(0).integers(0, 256, grid[0] * grid[1] * grid[2] * config.vision.patch_width, np.uint8).tobytes()
        item = MediaItem(MediaKind.IMAGE, pixels, grid, 0, max(1, grid[0] // 2) * grid[1] * grid[2] // 4, b"")
        for _ in range(3):
            model.encode(item)
        seconds = statistics.median(timed(lambda item=item: model.encode(item)) for _ in range(15))
        print(f"{grid}: {seconds * 1e3:8.2f} ms, {operations(config, grid) / seconds / 1e12:6.0f} TFLOP/s", flush=True)
        if arguments.profile and grid == (1, 74, 74):
            for name, launches, microseconds in xp.profile_kernels(lambda item=item: model.encode(item))[:15]:
                print(f"    {microseconds:9.1f} µs {launches:5} × {name[:100]}")


if __name__ == "__main__":
    main()
