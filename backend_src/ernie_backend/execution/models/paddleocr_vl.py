"""PaddleOCR-VL (0.9B): a SigLIP tower, a projector, and the dense language model.

Its rotary pairs lie d / 2 apart where the text models' lie side by side; they are moved together on loading (`weight_map`).
"""

from __future__ import annotations

import numpy as np

from ernie_kernels import xp
from ernie_kernels.xp import Tensor

from ...config import ModelConfig
from ...model_config import MERGE_SIZE
from ...protocol import MediaItem
from ..layers import BiasedLinear, LayerNorm, Take
from .vision_language import VisionLanguageModel
from .vision_tower import VisionTower

_PRE_NORM_EPS = 1e-5
"""Unlike the tower's; no configuration names it."""


class Projector:
    """Norm, the four patches of a block side by side, linear_2(gelu(linear_1(x)))."""

    def __init__(self, take: Take) -> None:
        self.pre_norm = LayerNorm(_PRE_NORM_EPS, take, "projector.pre_norm")
        self.linear_1 = BiasedLinear(take, "projector.linear_1")
        self.linear_2 = BiasedLinear(take, "projector.linear_2")

    def forward(self, x: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """[t · h · w, vision hidden], patches row by row → [t · h · w / 4, hidden]."""
        frames, height, width = grid
        hidden = x.shape[1]
        rows = self.pre_norm.forward(x)
        rows = xp.reshape(rows, [frames * height // MERGE_SIZE, MERGE_SIZE, width // MERGE_SIZE, MERGE_SIZE * hidden])
        rows = xp.reshape(xp.transpose(rows, (0, 2, 1, 3)), [x.shape[0] // MERGE_SIZE**2, MERGE_SIZE**2 * hidden])
        return self.linear_2.forward(self.linear_1.gelu_forward(rows, "gelu"))


class PaddleOCRVL(VisionLanguageModel):
    """Pages through tower and projector, then the language model."""

    def __init__(self, config: ModelConfig, take: Take) -> None:
        super().__init__(config, take)
        assert config.vision is not None
        self.tower = VisionTower(config.vision, take)
        self.projector = Projector(take)

    def encode(self, item: MediaItem) -> Tensor:
        pixels = np.frombuffer(item.patches, np.uint8).reshape(-1, self.tower.config.patch_width)
        return self.projector.forward(self.tower.forward(pixels, item.grid), item.grid)
