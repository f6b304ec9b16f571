"""The models, each written as its paper reads; `make_model` picks the one that a configuration describes."""

from __future__ import annotations

from ernie_kernels import xp

from ...config import ModelConfig
from ...errors import ConfigError
from ..layers import Take
from .ernie45 import Ernie45ForCausalLM
from .ernie45_vl import Ernie45VL
from .paddleocr_vl import PaddleOCRVL

LanguageModel = Ernie45ForCausalLM
"""What every model is, besides what it may see."""


def make_model(config: ModelConfig, take: Take) -> LanguageModel:
    """The model of a configuration, its weights from `take`. `ConfigError`: this device cannot run it."""
    if config.architecture == "ocr":
        return PaddleOCRVL(config, take)
    if config.architecture == "vl":
        shared, width = config.num_shared_experts * config.moe_intermediate_size, config.vision_moe_intermediate_size
        if xp.on_gpu and shared % width:  # there shared experts are computed as so many more of the routed ones
            raise ConfigError(
                f"On a GPU the shared experts' width ({shared}) must be a multiple of the vision experts' ({width}). Serve this model on a "
                "CPU.",
                param="moe_intermediate_size",
            )
        return Ernie45VL(config, take)
    return Ernie45ForCausalLM(config, take)
