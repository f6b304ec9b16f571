"""ERNIE-4.5-VL (28B-A3B, 28B-A3B-Thinking, 424B-A47B): vision tower, resampler, and a language model with experts for what it sees."""

from __future__ import annotations

import numpy as np

from ernie_kernels import xp
from ernie_kernels.xp import Tensor

from ...config import ModelConfig
from ...model_config import MERGE_SIZE
from ...protocol import MediaItem
from ..layers import BiasedLinear, LayerNorm, RMSNorm, Take
from .vision_language import VisionLanguageModel
from .vision_tower import PATCHES_AT_ONCE, VisionTower


class ResamplerStage:
    """norm(fc2(gelu(fc1(x))))."""

    def __init__(self, eps: float, take: Take, name: str) -> None:
        self.fc1 = BiasedLinear(take, name + "fc1")
        self.fc2 = BiasedLinear(take, name + "fc2")
        self.norm = LayerNorm(eps, take, name + "norm")

    def forward(self, x: Tensor) -> Tensor:
        return self.norm.forward(self.fc2.forward(self.fc1.gelu_forward(x, "gelu")))


class Resampler:
    """Four patches of a block become one row, then two frames become one, then the row takes the language model's width."""

    def __init__(self, config: ModelConfig, take: Take) -> None:
        assert config.vision is not None
        self.spatial = ResamplerStage(config.vision.norm_eps, take, "resampler.spatial.")
        self.temporal = ResamplerStage(config.vision.norm_eps, take, "resampler.temporal.")
        self.mlp = BiasedLinear(take, "resampler.mlp")
        self.after_norm = RMSNorm(config.rms_norm_eps, take, "resampler.after_norm")

    def forward(self, x: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """[t · h · w, vision hidden], patches in blocks → [max(1, t / 2) · h · w / 4, hidden]; t is 1 or even."""
        frames, height, width = grid
        x = self.spatial.forward(xp.reshape(x, [x.shape[0] // MERGE_SIZE**2, x.shape[1] * MERGE_SIZE**2]))
        tokens, merged = height * width // MERGE_SIZE**2, x.shape[1]
        if frames == 1:  # a picture is a film that stands still
            x = xp.concat([x, x], axis=1)
        else:
            pairs = xp.reshape(x, [frames // MERGE_SIZE, MERGE_SIZE, tokens, merged])
            x = xp.reshape(xp.concat([pairs[:, 0], pairs[:, 1]], axis=2), [frames // MERGE_SIZE * tokens, MERGE_SIZE * merged])
        return self.after_norm.forward(self.mlp.forward(self.temporal.forward(x)))


class Ernie45VL(VisionLanguageModel):
    """Images and videos through tower and resampler, then the language model."""

    def __init__(self, config: ModelConfig, take: Take) -> None:
        super().__init__(config, take)
        assert config.vision is not None
        self.tower = VisionTower(config.vision, take)
        self.resampler = Resampler(config, take)

    def encode(self, item: MediaItem) -> Tensor:
        """Some frames of a video at a time: they do not see each other, and become one in pairs."""
        frames, height, width = item.grid
        pixels = np.frombuffer(item.patches, np.uint8).reshape(frames, height * width, self.tower.config.patch_width)
        at_once = max(MERGE_SIZE, PATCHES_AT_ONCE // (height * width) // MERGE_SIZE * MERGE_SIZE)
        parts = []
        for start in range(0, frames, at_once):
            some = pixels[start : start + at_once]
            grid = (len(some), height, width)
            parts.append(self.resampler.forward(self.tower.forward(some.reshape(-1, some.shape[2]), grid), grid))
        return parts[0] if len(parts) == 1 else xp.concat(parts, axis=0)
