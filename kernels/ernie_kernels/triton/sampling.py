"""Choosing the next token of every row on the GPU, without a word from the host; knows no request and no text.

The semantics are those of `reference/sampling.py`; what differs is how the survivors of top_k and top_p are found, for which nothing is
sorted. A row is read in chunks of CHUNK logits by programs of their own, so that one row keeps the whole GPU busy and a row's sums never
depend on how many rows there are:

1. scan: penalties and edits, then each chunk's largest logit and its mass Σ exp((x − largest) / temperature). Enough for greedy rows, and
   for a draw from all tokens: chunk by its mass, then token within the chunk.
2. narrow (twice): how many logits, and how much mass, lie above each of 8 edges; k or p falls between two of them.
3. collect: the logits from the lower edge on (or, if those are too many, between the two edges) as a list in the order of ids.
4. choose: the exact threshold by bisection over the bits of the listed logits, and the draw.

Rows that need only step 1 leave 2 and 3 at once. If even the second narrowing leaves more than MAX_CANDIDATES (thousands of equal logits,
or top_k in the thousands together with top_p), step 4 reads the whole row instead of the list: exact as well, 1 ms instead of 10 µs.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from .. import launch
from ..launch import Argument as Tensor
from ..reference.sampling import SamplingInputs
from .sampling_choose import choose_kernel
from .sampling_scan import collect_kernel, narrow_kernel, scan_kernel

CHUNK = 4096
MAX_CANDIDATES = 8192
"""Gaussian logits leave at most 6,700 between two edges of the second narrowing (9 σ / 56, 103,424 logits); a trained model's, hundreds."""
NUM_EDGES = 8
CHUNK_WARPS = 4
CHOOSE_WARPS = 8
CHOOSE_BLOCK = 2048
FLOAT_COLUMNS = ("temperature", "top_p", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty")
INTEGER_COLUMNS = ("top_k", "seed", "position", "slot", "num_logprobs")


@dataclass(frozen=True)
class SamplingRows:
    """R rows' parameters on the device; `pack_rows` makes the host's half. A row of padding is greedy: temperature 0, slot −1."""

    floats: Tensor  # [R, 6] float32: FLOAT_COLUMNS
    integers: Tensor  # [R, 5] int64: INTEGER_COLUMNS; seed as 64 bits, slot −1 = no counts, num_logprobs −1 = none
    edit_offsets: Tensor  # [R + 1] int32: row r's edits are edit_offsets[r] … edit_offsets[r + 1] − 1
    edit_ids: Tensor  # [E] int32, different within a row
    edit_values: Tensor  # [E] float32, added to the logit: logit_bias, or −inf for a forbidden id


@dataclass(frozen=True)
class SamplingWorkspace:
    """Memory that `sample` uses between its kernels; every element is written before it is read. For R rows of V logits, S chunks."""

    adjusted: Tensor  # [R, V] float32: logits after penalties and edits, rows without them untouched
    chunk_floats: Tensor  # [R, 3, S] float32: largest, smallest finite, mass
    chunk_best: Tensor  # [R, S] int32: id of the largest
    edges: Tensor  # [R, 2, NUM_EDGES + 1] float32
    edge_counts: Tensor  # [R, 2, S, NUM_EDGES] int32: logits of the chunk ≥ the edge
    edge_masses: Tensor  # [R, 2, S, NUM_EDGES] float32
    candidates: Tensor  # [R, MAX_CANDIDATES] float32
    candidate_ids: Tensor  # [R, MAX_CANDIDATES] int32


def workspace_shapes(num_rows: int, vocab_size: int) -> dict[str, tuple[tuple[int, ...], str]]:
    """(shape, dtype) of each field of SamplingWorkspace."""
    chunks = -(-vocab_size // CHUNK)
    shapes = (
        ((num_rows, vocab_size), "float32"),
        ((num_rows, 3, chunks), "float32"),
        ((num_rows, chunks), "int32"),
        ((num_rows, 2, NUM_EDGES + 1), "float32"),
        ((num_rows, 2, chunks, NUM_EDGES), "int32"),
        ((num_rows, 2, chunks, NUM_EDGES), "float32"),
        ((num_rows, MAX_CANDIDATES), "float32"),
        ((num_rows, MAX_CANDIDATES), "int32"),
    )
    return {field.name: shape for field, shape in zip(fields(SamplingWorkspace), shapes, strict=True)}


def pack_rows(inputs: SamplingInputs, slots: np.ndarray) -> dict[str, np.ndarray]:
    """The fields of SamplingRows as numpy arrays. `slots` [R]: each row's line of the token counts, −1 where none is kept.

    Token lists of penalties are not read: they are in the counts (`token_counts.py`).
    """
    seeds = np.asarray(inputs.seed, np.uint64).view(np.int64)
    num_logprobs = np.array([-1 if n is None else n for n in inputs.num_logprobs], np.int64)
    edits = [_edits(bias, forbidden) for bias, forbidden in zip(inputs.logit_bias, inputs.forbidden_token_ids, strict=True)]
    offsets = np.zeros(len(inputs) + 1, np.int32)
    np.cumsum([len(ids) for ids, _ in edits], out=offsets[1:])
    return {
        "floats": np.stack([np.asarray(getattr(inputs, name), np.float32) for name in FLOAT_COLUMNS], axis=1),
        "integers": np.stack([inputs.top_k, seeds, inputs.position, slots, num_logprobs], axis=1).astype(np.int64),
        "edit_offsets": offsets,
        "edit_ids": np.concatenate([ids for ids, _ in edits] or [np.empty(0)]).astype(np.int32),
        "edit_values": np.concatenate([values for _, values in edits] or [np.empty(0)]).astype(np.float32),
    }


def _edits(bias: tuple[np.ndarray, np.ndarray] | None, forbidden: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """One list of different ids: a forbidden id's bias does not matter."""
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
    common = {"MAX_CANDIDATES": MAX_CANDIDATES, "NUM_EDGES": NUM_EDGES, "CHUNKS_PADDED": padded}
    source = (logits, w.adjusted, rows.floats, rows.integers, rows.edit_offsets, w.chunk_floats)
    found = (w.edges, w.edge_counts, w.edge_masses)
    grid = (chunks, num_rows)
    edits = (rows.edit_ids, rows.edit_values)
    launch.run(
        scan_kernel, grid, *source, *edits, token_counts, w.chunk_best, vocab_size, chunks, pdl=pdl, num_warps=CHUNK_WARPS, CHUNK=CHUNK
    )
    if truncated:
        for level in (1, 2):
            launch.run(
                narrow_kernel, grid, *source, *found, vocab_size, chunks, pdl=pdl, num_warps=CHUNK_WARPS, CHUNK=CHUNK, LEVEL=level, **common
            )
        lists = (w.candidates, w.candidate_ids)
        launch.run(collect_kernel, grid, *source, *found, *lists, vocab_size, chunks, pdl=pdl, num_warps=CHUNK_WARPS, CHUNK=CHUNK, **common)
    launch.run(
        choose_kernel,
        (num_rows,),
        *source,
        *found,
        w.candidates,
        w.candidate_ids,
        w.chunk_best,
        token_counts,
        token_ids,
        vocab_size,
        chunks,
        pdl=pdl,
        num_warps=CHOOSE_WARPS,
        CHUNK=CHUNK,
        BLOCK=CHOOSE_BLOCK,
        TRUNCATED=truncated,
        **common,
    )
