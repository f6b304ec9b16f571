"""Which stored tensor fills which weight of the model, for every published layout; knows names and shapes, no files and no tensors.

A model's weights carry our own names (`layers.3.attention.qkv`) and the shape that the ops want: linears [out, in], q‖k‖v and gate‖up
fused along `out`. A `Source` says what one stored tensor is called, how it is shaped on disk, and which part of which weight it fills.

=========  ===================================  ====================================  ========================================
layout     written by                           linears                               experts
=========  ===================================  ====================================  ========================================
PT         the published -PT, transformers      [out, in], q, k, v, gate, up apart    one tensor per expert and projection
PADDLE     the published -Paddle                [in, out], q‖k‖v and gate‖up fused    one per expert, gate‖up fused
CONVERTED  transformers without its             as PT                                 all experts in one tensor, gate‖up fused
           original format
=========  ===================================  ====================================  ========================================
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from ..config import ModelConfig


class Layout(Enum):
    PT = "pt"
    PADDLE = "paddle"
    CONVERTED = "converted"


class Kind(Enum):
    """How a weight is kept once loaded."""

    LINEAR = "linear"
    """[out, in] in the checkpoint's precision."""
    EMBEDDING = "embedding"
    """[vocab, hidden] in the checkpoint's precision."""
    EXPERTS = "experts"
    """(experts, intermediate, hidden): two arrays, `gate_up` [E, 2·Im, H] and `down` [E, H, Im], in the checkpoint's precision."""
    FLOAT32 = "float32"
    """Norms, router and its bias: float32, whatever is on disk."""


@dataclass(frozen=True)
class Weight:
    name: str
    kind: Kind
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Source:
    """One stored tensor and the place it fills."""

    tensor: str
    shape: tuple[int, ...]
    """As stored."""
    weight: str
    rows: tuple[int, int] | None = None
    """The rows (`out`) of the weight that it fills; None: all."""
    part: str = ""
    """`gate_up` or `down` of an EXPERTS weight."""
    expert: int | None = None
    """None with `part`: all experts at once."""
    transposed: bool = False
    """Stored [in, out]."""


def detect_layout(names: Iterable[str]) -> tuple[Layout, str]:
    """(layout, prefix of the body's tensors) from the tensors' names alone; their shapes are checked against it afterwards."""
    prefix, layout = "model.", Layout.PT
    for name in names:
        if name.startswith("ernie."):
            prefix = "ernie."
        if name.startswith("ernie.") or ".up_gate_proj." in name:
            layout = Layout.PADDLE
        elif name.endswith(".mlp.experts.gate_up_proj"):
            layout = Layout.CONVERTED
    return layout, prefix


def is_ignored(name: str) -> bool:
    """Tensors of the multi-token-prediction head, which is another model's business."""
    return any(part.startswith("mtp_") for part in name.split("."))


def weights(config: ModelConfig) -> Iterator[Weight]:
    """Every weight of the model, in the order of the forward pass."""
    hidden = config.hidden_size
    yield Weight("embedding", Kind.EMBEDDING, (config.vocab_size, hidden))
    for i in range(config.num_layers):
        at = f"layers.{i}."
        yield Weight(at + "attention_norm", Kind.FLOAT32, (hidden,))
        yield Weight(at + "attention.qkv", Kind.LINEAR, ((config.num_heads + 2 * config.num_kv_heads) * config.head_dim, hidden))
        yield Weight(at + "attention.out", Kind.LINEAR, (hidden, config.num_heads * config.head_dim))
        yield Weight(at + "mlp_norm", Kind.FLOAT32, (hidden,))
        if not config.is_sparse(i):
            yield from _mlp_weights(at + "mlp.", hidden, config.intermediate_size)
            continue
        yield Weight(at + "router.gate", Kind.FLOAT32, (config.num_experts, hidden))
        if config.has_correction_bias:
            yield Weight(at + "router.bias", Kind.FLOAT32, (config.num_experts,))
        yield Weight(at + "experts", Kind.EXPERTS, (config.num_experts, config.moe_intermediate_size, hidden))
        if config.num_shared_experts:
            yield from _mlp_weights(at + "shared.", hidden, config.moe_intermediate_size * config.num_shared_experts)
    yield Weight("norm", Kind.FLOAT32, (hidden,))
    if not config.tie_word_embeddings:
        yield Weight("head", Kind.LINEAR, (config.vocab_size, hidden))


def _mlp_weights(at: str, hidden: int, intermediate: int) -> Iterator[Weight]:
    yield Weight(at + "gate_up", Kind.LINEAR, (2 * intermediate, hidden))
    yield Weight(at + "down", Kind.LINEAR, (hidden, intermediate))


def num_parameters(config: ModelConfig) -> int:
    """Parameters of the model, from its configuration alone; a tied head counts once, the router's correction bias counts."""
    return sum((3 if weight.kind is Kind.EXPERTS else 1) * math.prod(weight.shape) for weight in weights(config))


def sources(config: ModelConfig, layout: Layout, prefix: str) -> Iterator[Source]:
    """Every tensor that a checkpoint of this layout must hold, in the order of the forward pass."""
    names = _Names(layout is Layout.PADDLE, layout is Layout.CONVERTED)
    hidden = config.hidden_size
    yield Source(prefix + "embed_tokens.weight", (config.vocab_size, hidden), "embedding")
    for i in range(config.num_layers):
        theirs, ours = f"{prefix}layers.{i}.", f"layers.{i}."
        yield Source(theirs + "input_layernorm.weight", (hidden,), ours + "attention_norm")
        yield from names.attention(theirs + "self_attn.", ours + "attention.", config)
        yield Source(theirs + "post_attention_layernorm.weight", (hidden,), ours + "mlp_norm")
        if config.is_sparse(i):
            yield from names.sparse(theirs + "mlp.", ours, config)
        else:
            yield from names.mlp(theirs + "mlp.", ours + "mlp.", hidden, config.intermediate_size)
    yield Source(prefix + "norm.weight", (hidden,), "norm")
    if not config.tie_word_embeddings:
        yield head_source(config, layout)


def head_source(config: ModelConfig, layout: Layout) -> Source:
    """The output head; a tied checkpoint may hold it as well, equal to the embedding."""
    return _Names(layout is Layout.PADDLE, False).linear("lm_head.weight", config.vocab_size, config.hidden_size, "head")


@dataclass(frozen=True)
class _Names:
    """The parts of a layer as one layout stores them. `theirs` and `ours` are name prefixes that end in a dot."""

    paddle: bool
    converted: bool

    def linear(
        self, tensor: str, out: int, in_: int, weight: str, first_row: int | None = None, part: str = "", expert: int | None = None
    ) -> Source:
        rows = None if first_row is None else (first_row, first_row + out)
        shape = (in_, out) if self.paddle else (out, in_)
        return Source(tensor, shape, weight, rows, part, expert, transposed=self.paddle)

    def attention(self, theirs: str, ours: str, config: ModelConfig) -> Iterator[Source]:
        hidden, q, kv = config.hidden_size, config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        if self.paddle:
            yield self.linear(theirs + "qkv_proj.weight", q + 2 * kv, hidden, ours + "qkv")
        else:
            yield self.linear(theirs + "q_proj.weight", q, hidden, ours + "qkv", 0)
            yield self.linear(theirs + "k_proj.weight", kv, hidden, ours + "qkv", q)
            yield self.linear(theirs + "v_proj.weight", kv, hidden, ours + "qkv", q + kv)
        yield self.linear(theirs + "o_proj.weight", hidden, q, ours + "out")

    def mlp(self, theirs: str, ours: str, hidden: int, width: int) -> Iterator[Source]:
        yield from self._gate_up(theirs, hidden, width, ours + "gate_up")
        yield self.linear(theirs + "down_proj.weight", hidden, width, ours + "down")

    def _gate_up(self, theirs: str, hidden: int, width: int, weight: str, part: str = "", expert: int | None = None) -> Iterator[Source]:
        if self.paddle:  # gate first in spite of the name
            yield self.linear(theirs + "up_gate_proj.weight", 2 * width, hidden, weight, None, part, expert)
        else:
            yield self.linear(theirs + "gate_proj.weight", width, hidden, weight, 0, part, expert)
            yield self.linear(theirs + "up_proj.weight", width, hidden, weight, width, part, expert)

    def sparse(self, theirs: str, ours: str, config: ModelConfig) -> Iterator[Source]:
        hidden, count, width = config.hidden_size, config.num_experts, config.moe_intermediate_size
        yield self.linear(theirs + "gate.weight", count, hidden, ours + "router.gate")
        if config.has_correction_bias:
            at = "gate.moe_statics." if self.converted else "moe_statics."
            yield Source(f"{theirs}{at}e_score_correction_bias", (1, count), ours + "router.bias")
        if self.converted:
            yield Source(theirs + "experts.gate_up_proj", (count, 2 * width, hidden), ours + "experts", part="gate_up")
            yield Source(theirs + "experts.down_proj", (count, hidden, width), ours + "experts", part="down")
        else:
            for j in range(count):
                at = f"{theirs}experts.{j}."
                yield from self._gate_up(at, hidden, width, ours + "experts", "gate_up", j)
                yield self.linear(at + "down_proj.weight", hidden, width, ours + "experts", part="down", expert=j)
        if config.num_shared_experts:
            yield from self.mlp(theirs + "shared_experts.", ours + "shared.", hidden, width * config.num_shared_experts)
