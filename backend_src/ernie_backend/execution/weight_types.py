"""What weight maps are made of: a weight of the model, the stored tensor that fills it, and how a checkpoint names its tensors."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


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
    pairs_in_halves: int = 0
    """Heads of this width in the rows, each stored as x₀ … y₀ … where rotary pairs (x, y): they are laid x₀ y₀ x₁ y₁ …, so that one rotary
    operator serves every text model. 0: nothing to move."""


@dataclass(frozen=True)
class Naming:
    """How a checkpoint names its tensors."""

    layout: Layout
    body: str
    """What the names of the language model begin with, `tower` and `connector` likewise; empty where there is none."""
    tower: str = ""
    connector: str = ""

    @property
    def is_paddle(self) -> bool:
        return self.layout is Layout.PADDLE


def linear_source(
    paddle: bool, tensor: str, out: int, in_: int, weight: str, first_row: int | None = None, part: str = "", expert: int | None = None
) -> Source:
    """A stored matrix [out, in], or [in, out] under Paddle, that fills the rows from `first_row` on (None: all)."""
    rows = None if first_row is None else (first_row, first_row + out)
    return Source(tensor, (in_, out) if paddle else (out, in_), weight, rows, part, expert, transposed=paddle)
