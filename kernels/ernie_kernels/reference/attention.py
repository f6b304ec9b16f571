"""Causal grouped-query attention over the paged cache; knows no scheduling."""

from __future__ import annotations

import math

from .. import xp
from ..metadata import AttentionMetadata
from ..xp import Tensor
from .kv_cache import read_kv_cache


def paged_attention(q: Tensor, k_cache: Tensor, v_cache: Tensor, metadata: AttentionMetadata, scale: float) -> Tensor:
    """o = softmax(scale · q Kᵀ + causal mask) V for each request and head. Shapes as in `ops.paged_attention`."""
    num_heads, head_dim = q.shape[1:]
    block_size = k_cache.shape[1]
    outputs = []
    for request, context_len in enumerate(metadata.context_lens_host.tolist()):
        start, stop = metadata.cu_seqlens_q_host[request : request + 2].tolist()
        block_ids = xp.from_numpy(metadata.block_tables_host[request, : math.ceil(context_len / block_size)])
        keys = read_kv_cache(k_cache, block_ids, context_len)
        values = read_kv_cache(v_cache, block_ids, context_len)
        output = attend(q[start:stop], keys, values, scale)
        outputs.append(xp.reshape(output, [stop - start, num_heads * head_dim]))
    return xp.concat(outputs, axis=0)


def attend(q: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
    """One request: its last q.shape[0] positions look at every position up to their own. q [n, heads, d], keys, values [c, kv, d]."""
    query_len, num_heads, head_dim = q.shape
    context_len, num_kv_heads, _ = keys.shape
    group = num_heads // num_kv_heads
    # Query head h reads key head h // group: fold the group into the rows of each key head's product.
    grouped = xp.transpose(xp.reshape(q, [query_len, num_kv_heads, group, head_dim]), (1, 0, 2, 3))
    rows = xp.reshape(grouped, [num_kv_heads, query_len * group, head_dim])
    scores = xp.matmul(rows, xp.transpose(keys, (1, 2, 0))) * scale
    scores = xp.reshape(scores, [num_kv_heads, query_len, group, context_len])
    last_visible = xp.reshape(xp.arange(query_len), [query_len, 1, 1]) + (context_len - query_len)
    visible = xp.reshape(xp.arange(context_len), [1, 1, context_len]) <= last_visible
    weights = xp.softmax(xp.where(visible, scores, -math.inf), axis=-1)
    weights = xp.reshape(weights, [num_kv_heads, query_len * group, context_len])
    output = xp.matmul(weights, xp.transpose(values, (1, 0, 2)))
    output = xp.reshape(output, [num_kv_heads, query_len, group, head_dim])
    return xp.reshape(xp.transpose(output, (1, 0, 2, 3)), [query_len, num_heads, head_dim])
