"""Causal grouped-query attention that reads the paged cache in place, and attention of all with all; knows no scheduling.

Keys are walked in tiles that begin at multiples of the tile's length, so a query row meets the same tiles in the same order whether its
tokens come one by one, in chunks or all at once, and whoever else is in the step: its result is the same to the last bit.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from .. import xp
from ..metadata import AttentionMetadata
from ..xp import Tensor
from .compile import kernel, num_threads
from .maths import exp
from .tile import add_weighted_rows, dot_rows

_KEY_TILE = 64
"""Keys per tile at most (a tile never leaves a block). 64 keys and values of 128 float32 are 64 KiB: in the second-level cache."""
_QUERY_ROWS = 64
"""Query rows (tokens × heads of one key head) that share a pass over the keys: prefill reads each key once for 64 rows."""
_ZERO = np.float32(0)


def paged_attention(q: Tensor, k_cache: Tensor, v_cache: Tensor, metadata: AttentionMetadata, scale: float) -> Tensor:
    """o = softmax(scale · q Kᵀ + causal mask) V for each request and head. Shapes as in `ops.paged_attention`."""
    num_tokens, num_heads, head_dim = q.shape
    num_kv_heads = k_cache.shape[2]
    assert num_heads % num_kv_heads == 0 and metadata.cu_seqlens_q_host[-1] == num_tokens
    output = xp.empty([num_tokens, num_heads * head_dim], "float32")
    _paged_attention(
        xp.host_view(xp.contiguous(q)),
        xp.host_view(k_cache),
        xp.host_view(v_cache),
        metadata.cu_seqlens_q_host,
        metadata.context_lens_host,
        metadata.block_tables_host,
        True,
        np.float32(scale),
        max(1, _QUERY_ROWS // (num_heads // num_kv_heads)),
        xp.host_view(output),
        num_threads(),
    )
    return output


def frame_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """o = softmax(scale · q kᵀ) v within each frame and head. q, k, v [T, S, heads, d] → [T · S, heads · d].

    The frames are blocks of a cache, and each is a request whose block is its own.
    """
    frames, patches, num_heads, head_dim = q.shape
    output = xp.empty([frames * patches, num_heads * head_dim], "float32")
    _paged_attention(
        xp.host_view(xp.contiguous(q)).reshape(frames * patches, num_heads, head_dim),
        xp.host_view(xp.contiguous(k)),
        xp.host_view(xp.contiguous(v)),
        np.arange(frames + 1, dtype=np.int32) * np.int32(patches),
        np.full(frames, patches, np.int32),
        np.arange(frames, dtype=np.int32)[:, None],
        False,
        np.float32(scale),
        _QUERY_ROWS,
        xp.host_view(output),
        num_threads(),
    )
    return output


@kernel(parallel=True)
def _paged_attention(q, k_cache, v_cache, cu_seqlens_q, context_lens, block_tables, causal, scale, tile_tokens, output, parts):
    num_heads, head_dim = q.shape[1:]
    num_kv_heads = k_cache.shape[2]
    group = num_heads // num_kv_heads
    key_tile = min(_KEY_TILE, k_cache.shape[1])
    for part in prange(parts):
        scores = np.empty((tile_tokens * group, key_tile), np.float32)
        sums = np.empty((tile_tokens * group, head_dim), np.float32)
        norms = np.empty((tile_tokens * group, 2), np.float32)
        # Neighbouring pieces of work cost about the same: dealing them out in turn keeps the threads level.
        piece = 0
        for request in range(len(context_lens)):
            stop = cu_seqlens_q[request + 1]
            for first in range(cu_seqlens_q[request], stop, tile_tokens):
                count = min(tile_tokens, stop - first)
                position = context_lens[request] - stop + first
                length = position + count if causal else context_lens[request]
                for kv_head in range(num_kv_heads):
                    piece += 1
                    if piece % parts == part:
                        _attend(
                            q, k_cache, v_cache, block_tables[request], first, count, position, length, causal, kv_head, scale,
                            scores, sums, norms, output,
                        )  # fmt: skip


@kernel()
def _attend(q, k_cache, v_cache, block_table, first, count, position, length, causal, kv_head, scale, scores, sums, norms, output):
    """Tokens first … first + count − 1, whose first stands at `position`, under one key head, over those of `length` keys that they see."""
    num_heads, head_dim = q.shape[1:]
    _, block_size, num_kv_heads, _ = k_cache.shape
    group = num_heads // num_kv_heads
    key_tile = scores.shape[1]
    norms[:, 0] = -np.inf  # per row: the largest score so far …
    norms[:, 1] = _ZERO  # … and the sum of exp(score − largest)
    sums[:] = _ZERO
    for key in range(0, length, key_tile):
        block, slot = block_table[key // block_size], key % block_size
        cache_row = (block * block_size + slot) * num_kv_heads + kv_head
        columns = min(key_tile, length - key)
        for i in range(count):
            visible = min(columns, position + i + 1 - key) if causal else columns
            if visible <= 0:
                continue
            for head in range(0, group, 4):
                row, rows = i * group + head, min(4, group - head)
                q_start = ((first + i) * num_heads + kv_head * group + head) * head_dim
                dot_rows(
                    q, q_start, head_dim, k_cache, cache_row * head_dim, num_kv_heads * head_dim, head_dim,
                    scores, row * key_tile, key_tile, rows, visible,
                )  # fmt: skip
                for r in range(row, row + rows):
                    _softmax_step(scores[r, :visible], scale, norms[r], sums[r])
                _add_values(scores, row, rows, visible, v_cache, cache_row * head_dim, num_kv_heads * head_dim, sums)
    for i in range(count):
        for head in range(group):
            start = (kv_head * group + head) * head_dim
            for x in range(head_dim):
                output[first + i, start + x] = sums[i * group + head, x] / norms[i * group + head, 1]


@kernel(fastmath={"contract", "reassoc", "nsz", "nnan"})
def _softmax_step(scores, scale, norm, total):
    """Turns one tile of a row's scores into weights, and what the row has gathered so far to the new largest score."""
    largest = scores[0]
    for j in range(1, len(scores)):
        largest = max(largest, scores[j])
    largest *= scale
    if largest > norm[0]:
        shrink = exp(norm[0] - largest) if norm[1] > _ZERO else _ZERO
        norm[0] = largest
        norm[1] *= shrink
        for x in range(len(total)):
            total[x] *= shrink
    largest = norm[0]
    weight = _ZERO
    for j in range(len(scores)):
        scores[j] = exp(scores[j] * scale - largest)
        weight += scores[j]
    norm[1] += weight


@kernel()
def _add_values(weights, row, rows, count, v_cache, v_start, v_step, sums):
    """sums[row … row + rows − 1] += weights · values over `count` keys; rows ≤ 4."""
    step, width = weights.shape[1], sums.shape[1]
    whole = width // 64 * 64
    for x in range(0, whole, 64):
        at, out_at = row * step, row * width + x
        if rows == 4:
            add_weighted_rows(weights, at, step, v_cache, v_start + x, v_step, count, sums, out_at, width, 64, 4, 4)
        else:
            for r in range(rows):
                add_weighted_rows(
                    weights, at + r * step, step, v_cache, v_start + x, v_step, count, sums, out_at + r * width, width, 64, 1, 4
                )
    for x in range(whole, width, 16):
        for r in range(row, row + rows):
            add_weighted_rows(weights, r * step, step, v_cache, v_start + x, v_step, count, sums, r * width + x, width, width - x, 1, 1)
