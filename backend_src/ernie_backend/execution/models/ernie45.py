"""ERNIE-4.5 text models, dense (0.3B) and mixture of experts (21B-A3B, 300B-A47B); knows no checkpoint, request or sampling."""

from __future__ import annotations

from collections.abc import Sequence

from ernie_kernels import ops
from ernie_kernels.xp import Tensor

from ...config import ModelConfig
from ..input_batch import InputBatch
from ..kv_cache import LayerCache
from ..layers import Attention, Embedding, GatedMLP, MixtureOfExperts, RMSNorm, Take


class DecoderLayer:
    """x += attention(norm(x)); x += mlp(norm(x)). The sum travels as `residual`, so that each addition is fused with the norm after it."""

    def __init__(self, config: ModelConfig, take: Take, index: int) -> None:
        name = f"layers.{index}."
        norm = RMSNorm(config.rms_norm_eps, take, name + "attention_norm")
        self.attention = Attention(norm, config, take, name + "attention.")
        norm = RMSNorm(config.rms_norm_eps, take, name + "mlp_norm")
        self.mlp = MixtureOfExperts(norm, config, take, name) if config.is_sparse(index) else GatedMLP(norm, take, name + "mlp.")

    def forward(self, x: Tensor, residual: Tensor | None, batch: InputBatch, cache: LayerCache, cos_sin: Tensor) -> tuple[Tensor, Tensor]:
        """(what the MLP adds, what it is to be added to); `residual` is None in front of the first layer."""
        return self.mlp.forward(*self.attention.forward(x, residual, batch, cache, cos_sin))


class Ernie45ForCausalLM:
    """Embedding, decoder layers, norm, head. The head is the embedding's memory where the two are tied."""

    def __init__(self, config: ModelConfig, take: Take) -> None:
        self.embedding = Embedding(take, "embedding")
        self.layers = [DecoderLayer(config, take, index) for index in range(config.num_layers)]
        self.norm = RMSNorm(config.rms_norm_eps, take, "norm")
        self.head: ops.LinearWeight = self.embedding.tied_head() if config.tie_word_embeddings else take("head")

    def forward(self, batch: InputBatch, caches: Sequence[LayerCache], cos_sin: Tensor) -> Tensor:
        """The normed hidden states [T, hidden] in front of the head; this step's keys and values enter the caches.

        cos_sin: `ops.rope_table`, long enough for every position of the batch.
        """
        x = self.embedding.forward(batch.token_ids)
        residual: Tensor | None = None
        for layer, cache in zip(self.layers, caches, strict=True):
            x, residual = layer.forward(x, residual, batch, cache, cos_sin)
        assert residual is not None, "a model has layers"
        return self.norm.add_forward(x, residual)[0]

    def logits(self, hidden: Tensor, out: Tensor | None = None) -> Tensor:
        """Hidden states [R, hidden] → logits [R, vocab] float32, in `out` if that is given (GPU)."""
        return ops.lm_head(hidden, self.head, out)
