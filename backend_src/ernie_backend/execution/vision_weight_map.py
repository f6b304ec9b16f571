"""Which stored tensor fills which weight in front of the language model: the vision tower and what leads from it to the model's width.

`weight_map.py` for towers: ours to theirs. The two towers are one as far as our names go (`models/vision_tower.py`).
"""

from __future__ import annotations

from collections.abc import Iterator

from ..config import ModelConfig
from ..model_config import MERGE_SIZE, VisionConfig
from .weight_types import Kind, Layout, Naming, Source, Weight, linear_source

_VL_BLOCK = {"norm1": "norm1", "norm2": "norm2", "out": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
_OCR_BLOCK = {"norm1": "layer_norm1", "norm2": "layer_norm2", "out": "self_attn.out_proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
_RESAMPLER_PARTS = {"fc1": "0", "fc2": "2", "norm": "3"}
"""Ours to the number in a published resampler; transformers' converted layout has names (`ln` for the norm)."""


def vision_weights(config: ModelConfig) -> Iterator[Weight]:
    """Every weight of tower and connector, in the order of the forward pass; none for a model that does not see."""
    vision = config.vision
    if vision is None:
        return
    hidden = vision.hidden_size
    yield Weight("vision.patch_embed", Kind.LINEAR, (hidden, vision.patch_width))
    if vision.position_grid:
        yield Weight("vision.patch_embed.bias", Kind.FLOAT32, (hidden,))
        yield Weight("vision.positions", Kind.FLOAT32, (vision.position_grid**2, hidden))
    for i in range(vision.num_layers):
        at = f"vision.blocks.{i}."
        yield from _layer_norm(at + "norm1", hidden)
        yield from _linear(at + "qkv", 3 * hidden, hidden)
        yield from _linear(at + "out", hidden, hidden)
        yield from _layer_norm(at + "norm2", hidden)
        yield from _linear(at + "fc1", vision.intermediate_size, hidden)
        yield from _linear(at + "fc2", hidden, vision.intermediate_size)
    yield from _layer_norm("vision.norm", hidden)
    merged = hidden * MERGE_SIZE**2
    if config.architecture == "ocr":
        yield from _layer_norm("projector.pre_norm", hidden)
        yield from _linear("projector.linear_1", merged, merged)
        yield from _linear("projector.linear_2", config.hidden_size, merged)
        return
    for name, width in (("spatial", merged), ("temporal", merged * MERGE_SIZE)):
        yield from _linear(f"resampler.{name}.fc1", merged, width)
        yield from _linear(f"resampler.{name}.fc2", merged, merged)
        yield from _layer_norm(f"resampler.{name}.norm", merged)
    yield from _linear("resampler.mlp", config.hidden_size, merged)
    yield Weight("resampler.after_norm", Kind.FLOAT32, (config.hidden_size,))


def _linear(name: str, out: int, in_: int) -> Iterator[Weight]:
    yield Weight(name, Kind.LINEAR, (out, in_))
    yield Weight(name + ".bias", Kind.FLOAT32, (out,))


def _layer_norm(name: str, width: int) -> Iterator[Weight]:
    yield Weight(name + ".weight", Kind.FLOAT32, (width,))
    yield Weight(name + ".bias", Kind.FLOAT32, (width,))


def vision_sources(config: ModelConfig, naming: Naming) -> Iterator[Source]:
    """Every tensor of tower and connector that a checkpoint named like this must hold."""
    if config.vision is None:
        return
    names = _Names(naming.is_paddle)
    if config.architecture == "ocr":
        yield from names.ocr_tower(naming.tower, config.vision)
        yield from names.projector(naming.connector, config.vision.hidden_size, config.hidden_size)
    else:
        yield from names.vl_tower(naming.tower, config.vision)
        yield from names.resampler(naming, config.vision.hidden_size * MERGE_SIZE**2, config.hidden_size)


class _Names:
    """Names of tensors, and whether linears are stored [in, out]."""

    def __init__(self, paddle: bool) -> None:
        self.paddle = paddle

    def linear(self, theirs: str, out: int, in_: int, ours: str, first_row: int | None = None) -> Iterator[Source]:
        """Matrix and bias."""
        rows = None if first_row is None else (first_row, first_row + out)
        yield linear_source(self.paddle, theirs + ".weight", out, in_, ours, first_row)
        yield Source(theirs + ".bias", (out,), ours + ".bias", rows)

    @staticmethod
    def layer_norm(theirs: str, width: int, ours: str) -> Iterator[Source]:
        yield Source(theirs + ".weight", (width,), ours + ".weight")
        yield Source(theirs + ".bias", (width,), ours + ".bias")

    def vl_tower(self, at: str, vision: VisionConfig) -> Iterator[Source]:
        hidden = vision.hidden_size
        yield linear_source(self.paddle, at + "patch_embed.proj.weight", hidden, vision.patch_width, "vision.patch_embed")
        for i in range(vision.num_layers):
            theirs, ours = f"{at}blocks.{i}.", f"vision.blocks.{i}."
            yield from self.linear(theirs + "attn.qkv", 3 * hidden, hidden, ours + "qkv")
            yield from self.rest_of_block(theirs, ours, vision, _VL_BLOCK)
        yield from self.layer_norm(at + "ln", hidden, "vision.norm")

    def ocr_tower(self, at: str, vision: VisionConfig) -> Iterator[Source]:
        hidden, patch = vision.hidden_size, vision.patch_size
        kernel = at + "embeddings.patch_embedding"  # a convolution whose stride is its size: a linear over the patch
        yield Source(kernel + ".weight", (hidden, vision.num_channels, patch, patch), "vision.patch_embed")
        yield Source(kernel + ".bias", (hidden,), "vision.patch_embed.bias")
        yield Source(at + "embeddings.position_embedding.weight", (vision.position_grid**2, hidden), "vision.positions")
        for i in range(vision.num_layers):
            theirs, ours = f"{at}encoder.layers.{i}.", f"vision.blocks.{i}."
            for number, name in enumerate(("q_proj", "k_proj", "v_proj")):
                yield from self.linear(f"{theirs}self_attn.{name}", hidden, hidden, ours + "qkv", number * hidden)
            yield from self.rest_of_block(theirs, ours, vision, _OCR_BLOCK)
        yield from self.layer_norm(at + "post_layernorm", hidden, "vision.norm")

    def rest_of_block(self, theirs: str, ours: str, vision: VisionConfig, names: dict[str, str]) -> Iterator[Source]:
        hidden, width = vision.hidden_size, vision.intermediate_size
        yield from self.layer_norm(theirs + names["norm1"], hidden, ours + "norm1")
        yield from self.layer_norm(theirs + names["norm2"], hidden, ours + "norm2")
        yield from self.linear(theirs + names["out"], hidden, hidden, ours + "out")
        yield from self.linear(theirs + names["fc1"], width, hidden, ours + "fc1")
        yield from self.linear(theirs + names["fc2"], hidden, width, ours + "fc2")

    def resampler(self, naming: Naming, merged: int, hidden: int) -> Iterator[Source]:
        parts = {"fc1": "fc1", "fc2": "fc2", "norm": "ln"} if naming.layout is Layout.CONVERTED else _RESAMPLER_PARTS
        for name, width in (("spatial", merged), ("temporal", merged * MERGE_SIZE)):
            theirs, ours = f"{naming.connector}{name}_linear.", f"resampler.{name}."
            yield from self.linear(theirs + parts["fc1"], merged, width, ours + "fc1")
            yield from self.linear(theirs + parts["fc2"], merged, merged, ours + "fc2")
            yield from self.layer_norm(theirs + parts["norm"], merged, ours + "norm")
        yield from self.linear(naming.connector + "mlp", hidden, merged, "resampler.mlp")
        yield Source(naming.connector + "after_norm.weight", (hidden,), "resampler.after_norm")

    def projector(self, at: str, vision_hidden: int, hidden: int) -> Iterator[Source]:
        merged = vision_hidden * MERGE_SIZE**2
        yield from self.layer_norm(at + "pre_norm", vision_hidden, "projector.pre_norm")
        yield from self.linear(at + "linear_1", merged, merged, "projector.linear_1")
        yield from self.linear(at + "linear_2", hidden, merged, "projector.linear_2")
