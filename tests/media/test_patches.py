"""The order of patches and of the pixels within one, and the hash of what the encoder sees."""

from __future__ import annotations

import numpy as np

from ernie_backend.media.patches import content_hash, merged_order, raster_order
from ernie_backend.protocol import MediaKind

GOLDEN = "(0,0) (0,1) (1,0) (1,1) (0,2) (0,3) (1,2) (1,3) (2,0) (2,1) (3,0) (3,1) (2,2) (2,3) (3,2) (3,3)"


def marked(t: int, height: int, width: int) -> np.ndarray:
    """Every value different (modulo 2³²): [t, height, width, 3]."""
    return np.arange(t * height * width * 3, dtype=np.uint32).reshape(t, height, width, 3)


def test_the_four_patches_of_a_block_follow_each_other() -> None:
    frames = marked(2, 56, 56)
    patches = merged_order(frames, 14, 2)
    assert patches.shape == (32, 588)
    places = [tuple(map(int, place.strip("()").split(","))) for place in GOLDEN.split()]
    for t in range(2):
        for i, (row, column) in enumerate(places):
            for k in (0, 13, 14, 195, 196, 391, 392, 587):
                y, x, channel = row * 14 + k % 196 // 14, column * 14 + k % 14, k // 196
                assert patches[t * 16 + i, k] == frames[t, y, x, channel]


def test_raster_order() -> None:
    frames = marked(1, 28, 56)
    patches = raster_order(frames, 14)
    assert patches.shape == (8, 588)
    for row in range(2):
        for column in range(4):
            block = frames[0, row * 14 : row * 14 + 14, column * 14 : column * 14 + 14]
            assert (patches[row * 4 + column].reshape(3, 14, 14) == block.transpose(2, 0, 1)).all()


def test_the_hash_is_of_pixels_arrangement_and_kind() -> None:
    data = bytes(range(256)) * 10
    hashes = {
        content_hash(kind, grid, patches)
        for kind in MediaKind
        for grid in ((1, 2, 8), (1, 8, 2), (2, 2, 4))
        for patches in (data, data[:-1] + b"\0", data[:-1])
    }
    assert len(hashes) == 18 and all(len(each) == 16 for each in hashes)
    assert content_hash(MediaKind.IMAGE, (1, 2, 8), data) == content_hash(MediaKind.IMAGE, (1, 2, 8), bytes(data))
