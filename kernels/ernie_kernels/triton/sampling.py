"""Choosing the next token of every row on the GPU, without a word from the host; knows no request and no text.

The semantics are those of `reference/sampling.py`; what differs is how the survivors of top_k and top_p are found, for which nothing is
sorted. A row is read in chunks of CHUNK logits by programs of their own, so that one row keeps the whole GPU busy and a row's sums never
depend on how many rows there are:

1. scan: penalties, masks and edits, then each chunk's largest logit and its mass Σ exp((x − largest) / temperature). Enough for greedy
   rows, and for a draw from all tokens: chunk by its mass, then token within the chunk.
2. narrow (twice): how many logits, and how much mass, lie above each of 8 edges; k or p falls between two of them.
3. collect: the logits from the lower edge on (or, if those are too many, between the two edges) as a list in the order of ids.
4. choose: the exact threshold by bisection over the bits of the listed logits, and the draw.

Rows that need only step 1 leave 2 and 3 at once. If even the second narrowing leaves more than MAX_CANDIDATES (thousands of equal logits,
or top_k in the thousands together with top_p), step 4 reads the whole row instead of the list: exact as well, but 0.7 ms for one row.

One H200, V = 103,424, in a graph with PDL, µs for 1 / 64 / 256 rows (reading 256 rows once: 25 µs):
greedy 3 / 13 / 39; from all tokens 6 / 18 / 51, penalised 11 / 35 / 101; top_p 0.8 on peaked logits 19 / 82 / 270, flat 48 / 165 / 508;
top_k 50 with top_p 0.8 29 / 107 / 341; min_p 12 / 63 / 226; greedy rows with `truncated` 6 / 22 / 73.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from .. import launch
from ..launch import Argument as Tensor
from ..reference.sampling import SamplingInputs
from .sampling_choose import choose_kernel
from .sampling_scan import collect_kernel, narrow_kernel, scan_kernel

CHUNK = 4096
"""Greedy, from all, top_p on peaked logits, 256 rows: 4096 gives 38, 52, 293 µs; 2048 39, 51, 296; 1024 42, 54, 365; 8192 58, 83, 501."""
MAX_CANDIDATES = 8192
"""Gaussian logits leave at most 7,600 between two edges of the second narrowing (9 σ / 49, 103,424 logits); a trained model's, hundreds."""
NUM_EDGES = 8
SCAN_WARPS = 4  # greedy, 256 rows: 38 µs; 8 warps 49
NARROW_WARPS = 8  # top_p on peaked logits, 256 rows: 270 µs; 4 warps 300
NARROW_COLUMNS = 1024  # 4 for each thread of 8 warps
CHOOSE_WARPS = 16  # top_p on flat logits, 1 row: 48 µs; 8 warps 58
CHOOSE_BLOCK = 2048
FLOAT_COLUMNS = ("temperature", "top_p", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty")
INTEGER_COLUMNS = ("top_k", "seed", "position", "slot", "num_logprobs", "mask")


@dataclass(frozen=True)
class SamplingRows:
    """R rows' parameters on the device; `pack_rows` makes the host's half. A row of padding is greedy: temperature 0, slot and mask −1."""

    floats: Tensor  # [R, 6] float32: FLOAT_COLUMNS
    integers: Tensor  # [R, 6] int64: INTEGER_COLUMNS; seed as 64 bits, slot −1 = no counts, num_logprobs and mask −1 = none
    edit_offsets: Tensor  # [R + 1] int32: row r's edits are edit_offsets[r] … edit_offsets[r + 1] − 1
    edit_ids: Tensor  # [E] int32, different within a row
    edit_values: Tensor  # [E] float32, added to the logit: logit_bias, or −inf for a forbidden id
    masks: Tensor  # [M, ceil(V / 32)] int32: bit i % 32 of word i // 32 of a row's line allows id i; 13 KB of a constrained row


@dataclass(frozen=True)
class SamplingWorkspace:
    """Memory that `sample` uses between its kernels; every element is written before it is read. For R rows of V logits, S chunks."""

    adjusted: Tensor  # [R, V] float32: logits after penalties, masks and edits, rows without them untouched
    chunk_floats: Tensor  # [R, 3, S] float32: largest, smallest finite, mass
    chunk_best: Tensor  # [R, S] int32: id of the largest
    edges: Tensor  # [R, 2, NUM_EDGES] float32: of the two narrowings
    edge_sums: Tensor  # [R, 2, S, 2, NUM_EDGES] float32: how many of the chunk's logits are ≥ the edge, and their mass
    candidates: Tensor  # [R, MAX_CANDIDATES] float32
    candidate_ids: Tensor  # [R, MAX_CANDIDATES] int32


def workspace_shapes(num_rows: int, vocab_size: int) -> dict[str, tuple[tuple[int, ...], str]]:
    """(shape, dtype) of each field of SamplingWorkspace."""
    chunks = -(-vocab_size // CHUNK)
    shapes = (
        ((num_rows, vocab_size), "float32"),
        ((num_rows, 3, chunks), "float32"),
        ((num_rows, chunks), "int32"),
        ((num_rows, 2, NUM_EDGES), "float32"),
        ((num_rows, 2, chunks, 2, NUM_EDGES), "float32"),
        ((num_rows, MAX_CANDIDATES), "float32"),
        ((num_rows, MAX_CANDIDATES), "int32"),
    )
    return {field.name: shape for field, shape in zip(fields(SamplingWorkspace), shapes, strict=True)}


def pack_rows(inputs: SamplingInputs, slots: np.ndarray, mask_lines: np.ndarray) -> dict[str, np.ndarray]:
    """The fields of SamplingRows but `masks` as numpy arrays. `slots` [R]: each row's line of the token counts, `mask_lines` [R]: of the
    masks; −1 where there is none.

    Token lists of penalties are not read: they are in the counts (`token_counts.py`).
    """
    seeds = np.asarray(inputs.seed, np.uint64).view(np.int64)
    num_logprobs = np.array([-1 if n is None else n for n in inputs.num_logprobs], np.int64)
    edits = [_edits(bias, forbidden) for bias, forbidden in zip(inputs.logit_bias, inputs.forbidden_token_ids, strict=True)]
    offsets = np.zeros(len(inputs) + 1, np.int32)
    np.cumsum([len(ids) for ids, _ in edits], out=offsets[1:])
    return {
        "floats": np.stack([np.asarray(getattr(inputs, name), np.float32) for name in FLOAT_COLUMNS], axis=1),
        "integers": np.stack([inputs.top_k, seeds, inputs.position, slots, num_logprobs, mask_lines], axis=1).astype(np.int64),
        "edit_offsets": offsets,
        "edit_ids": np.concatenate([ids for ids, _ in edits] or [np.empty(0)]).astype(np.int32),
        "edit_values": np.concatenate([values for _, values in edits] or [np.empty(0)]).astype(np.float32),
    }


_NO_EDITS = np.empty(0, np.int64), np.empty(0, np.float32)


def _edits(bias: tuple[np.ndarray, np.ndarray] | None, forbidden: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """One list of different ids: a forbidden id's bias does not matter."""
    if bias is None and forbidden is None:
        return _NO_EDITS
    never = np.unique(forbidden) if forbidden is not None else np.empty(0, np.int64)
    ids, values = bias if bias is not None else (np.empty(0, np.int64), np.empty(0, np.float32))
    stays = ~np.isin(ids, never)
    return np.concatenate([ids[stays], never]), np.concatenate([values[stays], np.full(len(never), -np.inf)])


def sample(
    logits: Tensor,
    rows: SamplingRows,
    token_counts: Tensor,
    workspace: SamplingWorkspace,
    token_ids: Tensor,
    *,
    truncated: bool = True,
    pdl: bool = False,
) -> None:
    """token_ids[r] ~ softmax(adjusted logits[r] / temperature) over what min_p, top_k and top_p leave; argmax for greedy rows.

    logits [R, V] float32, not changed; token_counts [slots, V] int32 (`token_counts.py`), where the chosen token is counted; token_ids [R]
    int32, −1 where the largest adjusted logit is not finite. `truncated` = False: no row has min_p, top_k or top_p on (save as greedy), and
    the kernels that look for survivors are left out. Deterministic: a row's token depends on its logits, parameters and counts only.
    """
    num_rows, vocab_size = logits.shape
    chunks = -(-vocab_size // CHUNK)
    padded = max(2, 1 << (chunks - 1).bit_length())
    w = workspace
    sizes = (vocab_size, chunks)
    common: dict[str, Any] = {"pdl": pdl, "branches_on_sums": True, "CHUNK": CHUNK}
    searching = common | {"MAX_CANDIDATES": MAX_CANDIDATES, "NUM_EDGES": NUM_EDGES, "CHUNKS_PADDED": padded}
    source = (logits, w.adjusted, rows.floats, rows.integers, rows.edit_offsets, w.chunk_floats)
    edges = (w.edges, w.edge_sums)
    lists = (w.candidates, w.candidate_ids)
    edits = (rows.edit_ids, rows.edit_values, rows.masks)
    grid = (chunks, num_rows)
    launch.run(scan_kernel, grid, *source, *edits, token_counts, w.chunk_best, *sizes, num_warps=SCAN_WARPS, **common)
    if truncated:
        for level in (1, 2):
            launch.run(
                narrow_kernel, grid, *source, *edges, *sizes, num_warps=NARROW_WARPS, LEVEL=level, COLUMNS=NARROW_COLUMNS, **searching
            )
        launch.run(collect_kernel, grid, *source, *edges, *lists, *sizes, num_warps=NARROW_WARPS, **searching)
    chosen = (w.chunk_best, token_counts, token_ids)
    launch.run(
        choose_kernel,
        (num_rows,),
        *source,
        *edges,
        *lists,
        *chosen,
        *sizes,
        num_warps=CHOOSE_WARPS,
        BLOCK=CHOOSE_BLOCK,
        TRUNCATED=truncated,
        **searching,
    )
