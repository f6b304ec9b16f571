"""A step's tokens as rows at fixed addresses: what a graph of a model that sees starts from; knows no graph and no scheduling.

Which rows stand for an image differs from step to step, and so does their number: they are put in their places launch by launch, before
the graph, and so are the three positions of each token.
"""

from __future__ import annotations

import numpy as np

from ernie_kernels import ops, xp
from ernie_kernels.xp import Tensor

from .input_batch import MediaLayout
from .models.vision_language import VisionLanguageModel


class EmbeddedTokens:
    """Of at most so many tokens."""

    def __init__(self, model: VisionLanguageModel, cos_sin: Tensor, num_tokens: int, hidden_size: int) -> None:
        self._model = model
        self._cos_sin = cos_sin
        self.x = xp.zeros([num_tokens, hidden_size], ops.cache_dtype)
        self.cos_sin = xp.zeros([num_tokens, cos_sin.shape[1]], "float32")
        self.rows = xp.arange(num_tokens)
        """int32: where in `cos_sin` each token's row is."""

    def fill(self, token_ids: Tensor, positions: np.ndarray, media: MediaLayout | None, places: np.ndarray) -> None:
        """token_ids [T] int32 on the device, positions [3, T] int32; places: of every token of `media`, which row it has here."""
        rows = embeddings = None
        if media is not None and media.embeddings is not None:
            rows, embeddings = xp.from_numpy(places[media.embedding_rows]), media.embeddings
        x, cos_sin = self._model.embed(token_ids, xp.from_numpy(positions), rows, embeddings, self._cos_sin)
        xp.copy_(self.x[: x.shape[0]], x)
        xp.copy_(self.cos_sin[: x.shape[0]], cos_sin)
