"""Which stored tensor fills which weight of the model, for every published layout; knows names and shapes, no files and no tensors.

A model's weights carry our own names (`layers.3.attention.qkv`) and the shape that the ops want: linears [out, in], q‖k‖v and gate‖up
fused along `out`. A `Source` says what one stored tensor is called, how it is shaped on disk, and which part of which weight it fills.
What lies in front of the language model of a model that sees stands in `vision_weight_map.py`.

=========  ===================================  ====================================  ========================================
layout     written by                           linears                               experts
=========  ===================================  ====================================  ========================================
PT         the published -PT, transformers      [out, in], q, k, v, gate, up apart    one tensor per expert and projection
PADDLE     the published -Paddle                [in, out], q‖k‖v and gate‖up fused    one per expert, gate‖up fused
CONVERTED  transformers without its             as PT                                 all experts in one tensor, gate‖up fused
           original format
=========  ===================================  ====================================  ========================================

Models with experts for text and experts for images number them through in PT and PADDLE, text first, and store their routers [in, out] in
either; CONVERTED keeps the two apart.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace

from ..config import ModelConfig
from .vision_weight_map import vision_sources, vision_weights
from .weight_types import Kind, Layout, Naming, Source, Weight, linear_source

__all__ = [
    "Kind",
    "Layout",
    "Naming",
    "Source",
    "Weight",
    "detect_naming",
    "head_source",
    "is_ignored",
    "num_parameters",
    "published_naming",
    "sources",
    "weights",
    "with_head_as_stored",
]

_TOWER = re.compile(r"(.*\.)?(visual\.vision_model|vision_model|vision_tower)\.")
_CONNECTOR = re.compile(r"(.*\.)?(resampler_model|mlp_AR|projector)\.")
_IGNORED = ("visual.vision_model.head.", "visual.vision_model.embeddings.packing_position_embedding.")
_HEAD = "lm_head.weight"


def detect_naming(names: Iterable[str]) -> Naming:
    """From the tensors' names alone; their shapes are checked against it afterwards."""
    body, layout, tower, connector = "model.", Layout.PT, "", ""
    for name in names:
        if name.startswith("ernie."):
            body = "ernie."
        if name.startswith("ernie.") or ".up_gate_proj." in name:
            layout = Layout.PADDLE
        elif name.startswith("model.language_model."):
            body, layout = "model.language_model.", Layout.CONVERTED
        elif name.endswith(".mlp.experts.gate_up_proj"):
            layout = Layout.CONVERTED
        if found := _TOWER.match(name):
            tower = found[0]
        elif found := _CONNECTOR.match(name):
            connector = found[0]
    return Naming(layout, body, tower, connector)


def published_naming(config: ModelConfig, flavour: str) -> Naming:
    """Of the flavour `pt` or `paddle`."""
    layout, body = (Layout.PT, "model.") if flavour == "pt" else (Layout.PADDLE, "ernie.")
    if config.architecture == "vl":
        return Naming(layout, body, "vision_model.", body + "resampler_model.")
    if config.architecture == "ocr":
        return Naming(layout, body, "visual.vision_model.", "mlp_AR.")
    return Naming(layout, body)


def is_ignored(name: str) -> bool:
    """Tensors of the multi-token-prediction head, which is another model's business, and of PaddleOCR-VL's tower, which nothing reads."""
    return any(part.startswith("mtp_") for part in name.split(".")) or any(part in name for part in _IGNORED)


def with_head_as_stored(config: ModelConfig, names: Collection[str]) -> ModelConfig:
    """PaddleOCR-VL's configurations disagree about tied embeddings: there a stored head is used, and an absent one is the embedding."""
    return replace(config, tie_word_embeddings=_HEAD not in names) if config.architecture == "ocr" else config


def weights(config: ModelConfig) -> Iterator[Weight]:
    """Every weight of the model, in the order of the forward pass."""
    hidden = config.hidden_size
    yield from vision_weights(config)
    yield Weight("embedding", Kind.EMBEDDING, (config.vocab_size, hidden))
    for i in range(config.num_layers):
        at = f"layers.{i}."
        yield Weight(at + "attention_norm", Kind.FLOAT32, (hidden,))
        yield Weight(at + "attention.qkv", Kind.LINEAR, ((config.num_heads + 2 * config.num_kv_heads) * config.head_dim, hidden))
        yield Weight(at + "attention.out", Kind.LINEAR, (hidden, config.num_heads * config.head_dim))
        yield Weight(at + "mlp_norm", Kind.FLOAT32, (hidden,))
        if config.is_sparse(i):
            yield from _sparse_weights(at, config)
        else:
            yield from _mlp_weights(at + "mlp.", hidden, config.intermediate_size)
    yield Weight("norm", Kind.FLOAT32, (hidden,))
    if not config.tie_word_embeddings:
        yield Weight("head", Kind.LINEAR, (config.vocab_size, hidden))


def _sparse_weights(at: str, config: ModelConfig) -> Iterator[Weight]:
    hidden, count, vision_width = config.hidden_size, config.num_experts, config.vision_moe_intermediate_size
    yield Weight(at + "router.gate", Kind.FLOAT32, (count, hidden))
    if vision_width:
        yield Weight(at + "vision_router.gate", Kind.FLOAT32, (count, hidden))
    if config.has_correction_bias:
        yield Weight(at + "router.bias", Kind.FLOAT32, (2, count) if vision_width else (count,))
    yield Weight(at + "experts", Kind.EXPERTS, (count, config.moe_intermediate_size, hidden))
    if vision_width:
        yield Weight(at + "vision_experts", Kind.EXPERTS, (count, vision_width, hidden))
    if config.num_shared_experts:
        yield from _mlp_weights(at + "shared.", hidden, config.moe_intermediate_size * config.num_shared_experts)


def _mlp_weights(at: str, hidden: int, intermediate: int) -> Iterator[Weight]:
    yield Weight(at + "gate_up", Kind.LINEAR, (2 * intermediate, hidden))
    yield Weight(at + "down", Kind.LINEAR, (hidden, intermediate))


def num_parameters(config: ModelConfig) -> int:
    """Parameters of the model, from its configuration alone; a tied head counts once, the router's correction bias counts."""
    return sum((3 if weight.kind is Kind.EXPERTS else 1) * math.prod(weight.shape) for weight in weights(config))


def sources(config: ModelConfig, naming: Naming) -> Iterator[Source]:
    """Every tensor that a checkpoint named like this must hold, in the order of the forward pass."""
    names = _Names(config, naming.layout)
    hidden, body = config.hidden_size, naming.body
    yield from vision_sources(config, naming)
    yield Source(body + "embed_tokens.weight", (config.vocab_size, hidden), "embedding")
    for i in range(config.num_layers):
        theirs, ours = f"{body}layers.{i}.", f"layers.{i}."
        yield Source(theirs + "input_layernorm.weight", (hidden,), ours + "attention_norm")
        yield from names.attention(theirs + "self_attn.", ours + "attention.")
        yield Source(theirs + "post_attention_layernorm.weight", (hidden,), ours + "mlp_norm")
        if not config.is_sparse(i):
            yield from names.mlp(theirs + "mlp.", ours + "mlp.", config.intermediate_size)
        elif config.vision_moe_intermediate_size:
            yield from names.sparse_by_modality(theirs + "mlp.", ours)
        else:
            yield from names.sparse(theirs + "mlp.", ours)
    yield Source(body + "norm.weight", (hidden,), "norm")
    if not config.tie_word_embeddings:
        yield head_source(config, naming)


def head_source(config: ModelConfig, naming: Naming) -> Source:
    """The output head; a tied checkpoint may hold it as well, equal to the embedding."""
    return linear_source(naming.is_paddle, _HEAD, config.vocab_size, config.hidden_size, "head")


class _Names:
    """The parts of a layer as one layout stores them. `theirs` and `ours` are name prefixes that end in a dot."""

    def __init__(self, config: ModelConfig, layout: Layout) -> None:
        self.config = config
        self.paddle = layout is Layout.PADDLE
        self.converted = layout is Layout.CONVERTED

    def linear(
        self, tensor: str, out: int, in_: int, weight: str, first_row: int | None = None, part: str = "", expert: int | None = None
    ) -> Source:
        return linear_source(self.paddle, tensor, out, in_, weight, first_row, part, expert)

    def attention(self, theirs: str, ours: str) -> Iterator[Source]:
        config = self.config
        hidden, q, kv = config.hidden_size, config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        if self.paddle:
            yield self.linear(theirs + "qkv_proj.weight", q + 2 * kv, hidden, ours + "qkv")
        else:
            halves = config.head_dim if config.architecture == "ocr" else 0
            yield replace(self.linear(theirs + "q_proj.weight", q, hidden, ours + "qkv", 0), pairs_in_halves=halves)
            yield replace(self.linear(theirs + "k_proj.weight", kv, hidden, ours + "qkv", q), pairs_in_halves=halves)
            yield self.linear(theirs + "v_proj.weight", kv, hidden, ours + "qkv", q + kv)
        yield self.linear(theirs + "o_proj.weight", hidden, q, ours + "out")

    def mlp(self, theirs: str, ours: str, width: int) -> Iterator[Source]:
        yield from self._gate_up(theirs, width, ours + "gate_up")
        yield self.linear(theirs + "down_proj.weight", self.config.hidden_size, width, ours + "down")

    def _gate_up(self, theirs: str, width: int, weight: str, part: str = "", expert: int | None = None) -> Iterator[Source]:
        hidden = self.config.hidden_size
        if self.paddle:  # gate first in spite of the name
            yield self.linear(theirs + "up_gate_proj.weight", 2 * width, hidden, weight, None, part, expert)
        else:
            yield self.linear(theirs + "gate_proj.weight", width, hidden, weight, 0, part, expert)
            yield self.linear(theirs + "up_proj.weight", width, hidden, weight, width, part, expert)

    def sparse(self, theirs: str, ours: str) -> Iterator[Source]:
        config = self.config
        yield self.linear(theirs + "gate.weight", config.num_experts, config.hidden_size, ours + "router.gate")
        if config.has_correction_bias:
            at = "gate.moe_statics." if self.converted else "moe_statics."
            yield Source(f"{theirs}{at}e_score_correction_bias", (1, config.num_experts), ours + "router.bias")
        yield from self._experts(theirs, ours + "experts", config.moe_intermediate_size)
        yield from self._shared(theirs, ours)

    def sparse_by_modality(self, theirs: str, ours: str) -> Iterator[Source]:
        config = self.config
        hidden, count = config.hidden_size, config.num_experts
        if config.has_correction_bias and not self.converted:
            yield Source(theirs + "moe_statics.e_score_correction_bias", (2, count), ours + "router.bias")
        for row, (gate, moe, kind) in enumerate((("gate.weight", "text_moe.", ""), ("gate.weight_1", "vision_moe.", "vision_"))):
            width = config.vision_moe_intermediate_size if kind else config.moe_intermediate_size
            router, experts = f"{ours}{kind}router.gate", f"{ours}{kind}experts"
            if self.converted:
                at = f"{theirs}{moe}gate."
                yield self.linear(at + "weight", count, hidden, router)
                if config.has_correction_bias:
                    yield Source(at + "moe_statics.e_score_correction_bias", (1, count), ours + "router.bias", (row, row + 1))
                yield from self._experts(theirs + moe, experts, width)
            else:
                yield Source(theirs + gate, (hidden, count), router, transposed=True)
                yield from self._experts(theirs, experts, width, first=row * count)
        yield from self._shared(theirs, ours)

    def _experts(self, theirs: str, weight: str, width: int, first: int = 0) -> Iterator[Source]:
        """`first`: the number that the first of them is stored under."""
        hidden, count = self.config.hidden_size, self.config.num_experts
        if self.converted:
            yield Source(theirs + "experts.gate_up_proj", (count, 2 * width, hidden), weight, part="gate_up")
            yield Source(theirs + "experts.down_proj", (count, hidden, width), weight, part="down")
            return
        for j in range(count):
            at = f"{theirs}experts.{first + j}."
            yield from self._gate_up(at, width, weight, "gate_up", j)
            yield self.linear(at + "down_proj.weight", hidden, width, weight, part="down", expert=j)

    def _shared(self, theirs: str, ours: str) -> Iterator[Source]:
        config = self.config
        if config.num_shared_experts:
            yield from self.mlp(theirs + "shared_experts.", ours + "shared.", config.moe_intermediate_size * config.num_shared_experts)
