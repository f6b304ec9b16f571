"""A model with what its forward pass reads and writes beside a step's batch; knows no step and no sequence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ernie_kernels.xp import Tensor

from .input_batch import InputBatch
from .kv_cache import LayerCache
from .models import LanguageModel


@dataclass(frozen=True)
class CachedModel:
    """What a runner computes with."""

    model: LanguageModel
    caches: Sequence[LayerCache]
    cos_sin: Tensor
    """`ops.rope_table`, one row for every position that may occur."""

    def forward(self, batch: InputBatch) -> Tensor:
        """Hidden states [tokens, hidden]; writes the tokens' keys and values into the caches."""
        return self.model.forward(batch, self.caches, self.cos_sin)

    def decode(self, x: Tensor, batch: InputBatch, cos_sin: Tensor) -> Tensor:
        """`forward` from the tokens' embeddings [tokens, hidden] on, with a rotary table that the batch's positions are rows of."""
        return self.model.decode(x, batch, self.caches, cos_sin)

    def logits(self, hidden: Tensor, out: Tensor | None = None) -> Tensor:
        """Hidden states [rows, hidden] → logits [rows, vocab] float32, in `out` if that is given (GPU)."""
        return self.model.logits(hidden, out)
