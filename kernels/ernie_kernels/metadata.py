"""How the tokens of a step divide into requests, as attention needs it; knows no scheduler."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .xp import Tensor


@dataclass(frozen=True)
class AttentionMetadata:
    """R requests whose T query tokens stand one after another. Each array is given twice: on the device, and on the host for planning."""

    cu_seqlens_q: Tensor  # [R + 1] int32: query tokens of request r are cu_seqlens_q[r] … cu_seqlens_q[r + 1] − 1
    context_lens: Tensor  # [R] int32: tokens in the cache, this step's included
    block_tables: Tensor  # [R, max_blocks] int32, padded with 0
    cu_seqlens_q_host: np.ndarray  # [R + 1] int32
    context_lens_host: np.ndarray  # [R] int32
    block_tables_host: np.ndarray  # [R, max_blocks] int32
    max_query_len: int
    max_context_len: int
    """At least every request's context; with max_query_len it decides how GPU kernels are launched (they never read the host's copies)."""
    num_single: int = 0
    """So many requests at the front have one query token each, the others more; 0 where all are alike, or it is not known."""
    rest_cu_seqlens_q: Tensor | None = None
    """cu_seqlens_q of the requests behind those, counted from their own first token; None without such."""
