"""Steps with prompts in them as CUDA graphs over fixed memory; knows no sampling and decides nothing about scheduling.

Launched one by one, the kernels of such a step keep the host busy for longer than the GPU: 0.6 ms a layer, however few the tokens. A
graph needs all sizes fixed, so a step is padded: first its sequences with one token each, then the tokens of the others, each part to one
of a few sizes. What fills a row of the first part has no context. What fills up the tokens of the second is one more prompt, of token 0,
whose keys are written nowhere and which reads whatever the first block holds.

Where a model sees and computes all its tokens alike, a graph starts behind the embedding, and serves steps with images and videos, too.
Where their tokens have experts of their own, the numbers of both kinds would have to be fixed: such steps are launched one by one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ernie_kernels import ops, xp
from ernie_kernels.triton.token_feed import feed_tokens
from ernie_kernels.xp import Tensor

from ..config import EngineConfig, ModelConfig
from .cached_model import CachedModel
from .embedded_tokens import EmbeddedTokens
from .fixed_memory import FixedMemory
from .graph_sizes import MOST_PROMPTS, can_be_captured, prompt_buckets
from .input_batch import InputBatch, MediaLayout, StepLayout
from .models.vision_language import VisionLanguageModel


class Bucket(NamedTuple):
    """The sizes of a graph."""

    single: int
    """Sequences with one token."""
    tokens: int
    """Of all others."""


class PromptGraphs:
    """One per runner."""

    def __init__(
        self,
        model: CachedModel,
        model_config: ModelConfig,
        engine_config: EngineConfig,
        sampled: Tensor,
    ) -> None:
        """`sampled` [rows] int32: what the step before chose (see `feed_tokens`)."""
        assert engine_config.max_model_len is not None
        self._model = model
        self._sampled = sampled
        self._max_model_len = engine_config.max_model_len
        self._most_padding = engine_config.blocks_per_sequence * engine_config.block_size_tokens
        self._single, self._tokens = prompt_buckets(engine_config, model_config)
        most = self._single[-1]
        rows, tokens = most + MOST_PROMPTS + 1, most + max(self._tokens, default=0)
        self._memory = FixedMemory(
            {
                "token_ids": ("int32", (tokens,)),
                "positions": ("int32", (tokens,)),
                "slot_mapping": ("int32", (tokens,)),
                "context_lens": ("int32", (rows,)),
                "rest_cu_seqlens_q": ("int32", (MOST_PROMPTS + 2,)),
                "last_rows": ("int32", (rows,)),
                "block_tables": ("int32", (rows, engine_config.blocks_per_sequence)),
            }
        )
        self._bounds = xp.from_numpy(np.arange(most + 1, dtype=np.int32))
        self._hidden = xp.empty([rows, model_config.hidden_size], ops.cache_dtype)
        self._graphs: dict[Bucket, Any] = {}
        self._embedded: EmbeddedTokens | None = None
        if isinstance(model.model, VisionLanguageModel) and not model_config.num_experts:
            self._embedded = EmbeddedTokens(model.model, model.cos_sin, tokens, model_config.hidden_size)

    @property
    def see(self) -> bool:
        """Whether a step may have images or videos."""
        return self._embedded is not None

    @property
    def buckets(self) -> list[Bucket]:
        """All that there are, the largest first: the others find their memory in its pool."""
        sizes = [Bucket(single, tokens) for single in self._single for tokens in self._tokens]
        return sorted((size for size in sizes if size.tokens <= self._most_padding and can_be_captured(sum(size))), key=sum, reverse=True)

    def bucket(self, layout: StepLayout) -> Bucket | None:
        """That of a step, which has no images or videos unless graphs `see`; None: it fits none."""
        single, rest = layout.num_single, len(layout.token_ids) - layout.num_single
        if layout.max_query_len == 1 or len(layout.context_lens) - single > MOST_PROMPTS or rest > max(self._tokens, default=0):
            return None
        found = Bucket(next(size for size in self._single if size >= single), next(size for size in self._tokens if size >= rest))
        return found if found.tokens - rest <= self._most_padding and can_be_captured(sum(found)) else None

    def compute(self, layout: StepLayout, bucket: Bucket, media: MediaLayout | None = None) -> Tensor:
        """Run the step; the hidden states [number of sampling sequences, hidden] in front of the head, until the next step."""
        self._fill(layout, bucket)
        self._memory.send(bucket.single + MOST_PROMPTS + 1)
        if self._embedded is not None:
            total, places = sum(bucket), np.arange(len(layout.token_ids), dtype=np.int32)
            places[layout.num_single :] += bucket.single - layout.num_single
            positions = np.zeros((3, total), np.int32)
            positions[:, places] = layout.positions if media is None else media.positions
            self._embedded.fill(self._token_ids(total), positions, media, places)
        self._run(bucket)
        return self._hidden[: len(layout.last_rows)]

    def warm_up(self, bucket: Bucket) -> None:
        """Compile its kernels and capture it. Reads the first block and writes nothing."""
        nothing = np.zeros(0, np.int32)
        bounds, tables = np.zeros(1, np.int32), np.zeros((0, 0), np.int32)
        self.compute(StepLayout(nothing, nothing, nothing, bounds, nothing, tables, nothing, 0, 0), bucket)

    def _run(self, bucket: Bucket) -> None:
        """The first of its kind launch by launch, and then captured."""
        graph = self._graphs.get(bucket)
        if graph is not None:
            graph.replay()
            return
        self._launch(bucket)  # compiles what is missing
        xp.synchronize()
        self._graphs[bucket] = xp.capture(lambda: self._launch(bucket))

    def _launch(self, bucket: Bucket) -> None:
        device, host = self._memory.device, self._memory.host
        single, total, rows = bucket.single, bucket.single + bucket.tokens, bucket.single + MOST_PROMPTS + 1
        rest = device["rest_cu_seqlens_q"]
        metadata = ops.AttentionMetadata(
            cu_seqlens_q=self._bounds[: single + 1] if single else rest,  # of the first part alone, as the operator reads it
            context_lens=device["context_lens"][:rows],
            block_tables=device["block_tables"][:rows],
            cu_seqlens_q_host=host["rest_cu_seqlens_q"],
            context_lens_host=host["context_lens"][:rows],
            block_tables_host=host["block_tables"][:rows],
            max_query_len=bucket.tokens,
            max_context_len=self._max_model_len,
            num_single=single,
            rest_cu_seqlens_q=rest if single else None,
        )
        given, slots = self._embedded, device["slot_mapping"][:total]
        if given is None:
            hidden = self._model.forward(InputBatch(self._token_ids(total), device["positions"][:total], slots, metadata, None))
        else:
            batch = InputBatch(device["token_ids"][:total], given.rows[:total], slots, metadata, None)
            hidden = self._model.decode(given.x[:total], batch, given.cos_sin[:total])
        xp.copy_(self._hidden[:rows], xp.take(hidden, device["last_rows"][:rows], axis=0))

    def _token_ids(self, total: int) -> Tensor:
        """Those that were sent, and in the place of placeholders what the step before chose."""
        token_ids = xp.empty([total], "int32")
        feed_tokens(self._memory.device["token_ids"][:total], self._sampled, token_ids)
        return token_ids

    def _fill(self, layout: StepLayout, bucket: Bucket) -> None:
        host, single, first = self._memory.host, layout.num_single, bucket.single
        rest, count = len(layout.token_ids) - single, len(layout.context_lens) - single
        end, padding = first + count, first + MOST_PROMPTS  # rows: behind the last prompt, and of the one that fills up
        for name, value in (("token_ids", 0), ("positions", 0), ("slot_mapping", -1)):
            row, given = host[name], getattr(layout, name)
            row[:single], row[single:first] = given[:single], value
            row[first : first + rest], row[first + rest : first + bucket.tokens] = given[single:], value
        lens, bounds, tables = host["context_lens"], host["rest_cu_seqlens_q"], host["block_tables"]
        lens[:single], lens[single:first] = layout.context_lens[:single], 0
        lens[first:end], lens[end:padding], lens[padding] = layout.context_lens[single:], 0, bucket.tokens - rest
        bounds[: count + 1] = layout.cu_seqlens_q[single:] - single
        bounds[count + 1 : -1], bounds[-1] = rest, bucket.tokens
        width = layout.block_tables.shape[1]
        tables[:single, :width], tables[first:end, :width] = layout.block_tables[:single], layout.block_tables[single:]
        tables[padding] = 0
        rows = layout.last_rows
        host["last_rows"][: len(rows)] = np.where(rows < single, rows, rows + first - single)
        host["last_rows"][len(rows) :] = 0
