"""The vision transformer in front of ERNIE-4.5-VL and of PaddleOCR-VL; knows no language model and no resampler.

The two differ in the order of patches (2 × 2 blocks or rows), the activation, and a table of learned positions that the latter adds.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from ernie_kernels import ops, xp
from ernie_kernels.xp import Tensor

from ...model_config import MERGE_SIZE, VisionConfig
from ..layers import BiasedLinear, LayerNorm, Take

PATCHES_AT_ONCE = 32768
"""Of a video, whose frames are encoded one group after another: three minutes of it would take 20 GB at once. No bound for one picture,
whose patches all see each other: preprocess lets 24,708 through by default."""
_GRIDS_REMEMBERED = 16
"""Tables of positions kept, one for each size of picture: 5,476 patches take 1.8 MB and 5 ms to make."""


class VisionBlock:
    """x += attention(norm(x)); x += mlp(norm(x)); attention of every patch to all of its frame, with rotary positions by row and column."""

    def __init__(self, config: VisionConfig, take: Take, name: str) -> None:
        self.num_heads = config.num_heads
        self.scale = config.head_dim**-0.5
        self.activation = config.activation
        self.norm1 = LayerNorm(config.norm_eps, take, name + "norm1")
        self.qkv = BiasedLinear(take, name + "qkv")
        self.out = BiasedLinear(take, name + "out")
        self.norm2 = LayerNorm(config.norm_eps, take, name + "norm2")
        self.fc1 = BiasedLinear(take, name + "fc1")
        self.fc2 = BiasedLinear(take, name + "fc2")

    def forward(self, x: Tensor, cos_sin: Tensor) -> Tensor:
        qkv = self.qkv.forward(self.norm1.forward(x))
        x = self.out.forward(ops.vision_attention(qkv, cos_sin, self.num_heads, self.scale), x)
        return self.fc2.forward(self.fc1.gelu_forward(self.norm2.forward(x), self.activation), x)


class VisionTower:
    """Patches → rows of the tower's width."""

    def __init__(self, config: VisionConfig, take: Take) -> None:
        self.config = config
        self.in_blocks = config.position_grid == 0
        """Whether the four patches of a 2 × 2 block follow each other, instead of those of a row."""
        self.patch_embed: ops.LinearWeight = take("vision.patch_embed")
        bias = take("vision.patch_embed.bias") if config.position_grid else xp.zeros([config.hidden_size], "float32")
        self.patch_bias: Tensor = bias  # [hidden] float32
        self.positions: Tensor | None = take("vision.positions") if config.position_grid else None  # [grid², hidden] float32
        self.blocks = [VisionBlock(config, take, f"vision.blocks.{i}.") for i in range(config.num_layers)]
        self.norm = LayerNorm(config.norm_eps, take, "vision.norm")
        per_channel = config.patch_size**2
        self.mean = xp.from_numpy(np.repeat(np.array(config.image_mean, np.float32), per_channel))
        self.std = xp.from_numpy(np.repeat(np.array(config.image_std, np.float32), per_channel))
        self._angles = lru_cache(_GRIDS_REMEMBERED)(self._make_angles)
        self._learned = lru_cache(_GRIDS_REMEMBERED)(self._make_learned)

    def forward(self, pixels: np.ndarray, grid: tuple[int, int, int]) -> Tensor:
        """pixels uint8 [t · h · w, channels · patch²] of the patches of `grid` (t, h, w), in the tower's order → [t · h · w, hidden]."""
        frames, height, width = grid
        x = ops.normalize_pixels(xp.from_numpy(pixels), self.mean, self.std)
        x = ops.linear_bias(x, self.patch_embed, self.patch_bias)
        if self.positions is not None:
            x = xp.reshape(xp.reshape(x, [frames, height * width, -1]) + self._learned(height, width), [frames * height * width, -1])
        cos_sin = self._angles(height, width)
        for block in self.blocks:
            x = block.forward(x, cos_sin)
        return self.norm.forward(x)

    def _make_angles(self, height: int, width: int) -> Tensor:
        """[height · width, head_dim]."""
        rows, columns = np.indices((height, width))
        if self.in_blocks:
            rows, columns = _in_blocks(rows), _in_blocks(columns)
        return ops.axial_rope_table(self.config.head_dim, self.config.rope_theta, rows.ravel(), columns.ravel())

    def _make_learned(self, height: int, width: int) -> Tensor:
        """The table of positions, stretched over the picture: bilinear, corners not aligned. [1, height · width, hidden]."""
        side, hidden = self.config.position_grid, self.config.hidden_size
        table = xp.reshape(self.positions, [side, side * hidden])
        stretched = xp.reshape(xp.matmul(_stretching(side, height), table), [height, side, hidden])
        return xp.cast(xp.reshape(xp.matmul(_stretching(side, width), stretched), [1, height * width, hidden]), ops.cache_dtype)


def _in_blocks(plane: np.ndarray) -> np.ndarray:
    """[h, w] in the order of 2 × 2 blocks, each block row by row."""
    height, width = plane.shape
    blocks = plane.reshape(height // MERGE_SIZE, MERGE_SIZE, width // MERGE_SIZE, MERGE_SIZE)
    return blocks.swapaxes(1, 2)


def _stretching(side: int, length: int) -> Tensor:
    """[length, side] float32: the weights of linear interpolation from `side` points to `length`."""
    at = np.maximum((np.arange(length) + 0.5) * side / length - 0.5, 0.0)
    left = np.minimum(at.astype(np.int64), side - 1)
    share = (at - left).astype(np.float32)
    weights = np.zeros((length, side), np.float32)
    np.add.at(weights, (np.arange(length), left), 1 - share)
    np.add.at(weights, (np.arange(length), np.minimum(left + 1, side - 1)), share)
    return xp.from_numpy(weights)
