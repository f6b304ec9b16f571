"""What models that see have in common: rows of an encoder in the place of placeholders, and three positions per token; knows no tower."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace

from ernie_kernels import ops, xp
from ernie_kernels.xp import Tensor

from ...config import ModelConfig
from ...protocol import MediaItem
from ..input_batch import InputBatch
from ..kv_cache import LayerCache
from ..layers import Take
from .ernie45 import Ernie45ForCausalLM


class VisionLanguageModel(Ernie45ForCausalLM, ABC):
    """The text model, told of images and videos."""

    def __init__(self, config: ModelConfig, take: Take) -> None:
        super().__init__(config, take)
        self.rope_axes = config.rope_axes

    @abstractmethod
    def encode(self, item: MediaItem) -> Tensor:
        """The rows [num_tokens, hidden] that stand in the prompt for an image or a video; a function of `content_hash` alone."""

    def forward(self, batch: InputBatch, caches: Sequence[LayerCache], cos_sin: Tensor) -> Tensor:
        """As the text model's. Where a token's three positions differ, a table is made that has a row for each token of the step."""
        media = batch.media
        if media is None:
            return super().forward(batch, caches, cos_sin)
        x, table = self.embed(batch.token_ids, media.positions, media.embedding_rows, media.embeddings, cos_sin)
        return self.decode(x, replace(batch, positions=xp.arange(x.shape[0])), caches, table)

    def embed(
        self, token_ids: Tensor, positions: Tensor, embedding_rows: Tensor | None, embeddings: Tensor | None, cos_sin: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What `decode` starts from: the tokens' embeddings [T, hidden], in `embedding_rows` those of what is seen, and a rotary table
        [T, head_dim] with a row for each. positions [3, T] int32."""
        x = self.embedding.forward(token_ids)
        if embeddings is not None:
            xp.put_(x, embedding_rows, embeddings)
        return x, ops.rope_rows(cos_sin, positions, self.rope_axes)
