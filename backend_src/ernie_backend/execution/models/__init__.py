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
    if config.vision is None:
        return Ernie45ForCausalLM(config, take)
    if xp.on_gpu:
        raise ConfigError(
            "Models that see run on the CPU only so far. Serve a text model on this GPU, or this one on a CPU.", param="model"
        )
    return (Ernie45VL if config.architecture == "vl" else PaddleOCRVL)(config, take)
