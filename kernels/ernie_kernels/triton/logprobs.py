"""Log-probabilities of chosen and most likely tokens, from the raw logits, on the GPU; knows nothing of how tokens were chosen."""

from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from .. import launch
from ..launch import Argument as Tensor

MAX_LOGPROBS = 20
_CHUNK = 4096
_LINE = 32  # MAX_LOGPROBS as a power of two


@dataclass(frozen=True)
class LogprobsWorkspace:
    """Memory that `top_logprobs` uses between its kernels, for R rows of S chunks."""

    chunk_floats: Tensor  # [R, 2, S] float32: largest, Σ exp(x − largest)
    chunk_tops: Tensor  # [R, S, MAX_LOGPROBS] float32
    chunk_top_ids: Tensor  # [R, S, MAX_LOGPROBS] int32


def workspace_shapes(num_rows: int, vocab_size: int) -> dict[str, tuple[tuple[int, ...], str]]:
    """(shape, dtype) of each field of LogprobsWorkspace."""
    chunks = -(-vocab_size // _CHUNK)
    return {
        "chunk_floats": ((num_rows, 2, chunks), "float32"),
        "chunk_tops": ((num_rows, chunks, MAX_LOGPROBS), "float32"),
        "chunk_top_ids": ((num_rows, chunks, MAX_LOGPROBS), "int32"),
    }


def top_logprobs(
    logits: Tensor,
    integers: Tensor,
    token_ids: Tensor,
    workspace: LogprobsWorkspace,
    logprobs: Tensor,
    top_ids: Tensor,
    *,
    pdl: bool = False,
) -> None:
    """logprobs[r] = log_softmax(logits[r]) at token_ids[r] and at the n most likely ids, lower id first among equals.

    logits [R, V] float32, raw; integers [R, 5] int64 as `SamplingRows.integers`, n its last column (−1: the row is left alone); token_ids
    [R] int32 (−1: chosen not written); logprobs [R, 1 + MAX_LOGPROBS] float32: chosen, then the first n of the rest; top_ids
    [R, MAX_LOGPROBS] int32.
    """
    num_rows, vocab_size = logits.shape
    chunks = -(-vocab_size // _CHUNK)
    parts = (workspace.chunk_floats, workspace.chunk_tops, workspace.chunk_top_ids)
    launch.run(
        chunk_tops_kernel, (chunks, num_rows), logits, integers, *parts, vocab_size, chunks, pdl=pdl, CHUNK=_CHUNK, MOST=MAX_LOGPROBS
    )
    padded = max(2, launch.next_power_of_2(chunks))
    launch.run(
        merge_tops_kernel,
        (num_rows,),
        logits,
        integers,
        *parts,
        token_ids,
        logprobs,
        top_ids,
        vocab_size,
        chunks,
        pdl=pdl,
        MOST=MAX_LOGPROBS,
        LINE=_LINE,
        CHUNKS_PADDED=padded,
    )


@triton.jit
def chunk_tops_kernel(
    logits_ptr,  # [R, V]
    integers_ptr,  # [R, 5]
    chunk_floats_ptr,  # [R, 2, S], written
    chunk_tops_ptr,  # [R, S, MOST], the first n of a line written
    chunk_top_ids_ptr,  # [R, S, MOST]
    vocab_size,
    chunks,
    CHUNK: tl.constexpr,
    MOST: tl.constexpr,
    PDL: tl.constexpr,
):
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    chunk = tl.program_id(0)
    row = tl.program_id(1).to(tl.int64)
    wanted = tl.load(integers_ptr + row * 6 + 4).to(tl.int32)
    if wanted >= 0:
        ids = chunk * CHUNK + tl.arange(0, CHUNK)
        x = tl.load(logits_ptr + row * vocab_size + ids, mask=ids < vocab_size, other=float("-inf"))
        largest = tl.max(x, axis=0)
        line = chunk_floats_ptr + row * 2 * chunks + chunk
        tl.store(line, largest)
        tl.store(line + chunks, tl.sum(tl.exp(x - tl.maximum(largest, -3.4e38)), axis=0))
        cell = (row * chunks + chunk) * MOST
        for i in range(0, wanted):
            top, place = tl.max(x, axis=0, return_indices=True)
            tl.store(chunk_tops_ptr + cell + i, top)
            tl.store(chunk_top_ids_ptr + cell + i, chunk * CHUNK + place)
            x = tl.where(ids == chunk * CHUNK + place, float("-inf"), x)


@triton.jit
def merge_tops_kernel(
    logits_ptr,
    integers_ptr,
    chunk_floats_ptr,
    chunk_tops_ptr,
    chunk_top_ids_ptr,
    token_ids_ptr,  # [R]
    logprobs_ptr,  # [R, 1 + MOST], written
    top_ids_ptr,  # [R, MOST], written
    vocab_size,
    chunks,
    MOST: tl.constexpr,
    LINE: tl.constexpr,
    CHUNKS_PADDED: tl.constexpr,
    PDL: tl.constexpr,
):
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    row = tl.program_id(0).to(tl.int64)
    wanted = tl.load(integers_ptr + row * 6 + 4).to(tl.int32)
    if wanted >= 0:
        chunk = tl.arange(0, CHUNKS_PADDED)
        line = chunk_floats_ptr + row * 2 * chunks + chunk
        tops = tl.load(line, mask=chunk < chunks, other=float("-inf"))
        sums = tl.load(line + chunks, mask=chunk < chunks, other=0.0)
        largest = tl.max(tops, axis=0)
        normaliser = largest + tl.log(tl.sum(sums * tl.exp(tops - largest), axis=0))
        token = tl.load(token_ids_ptr + row)
        chosen = tl.load(logits_ptr + row * vocab_size + token, mask=token >= 0, other=0.0)
        tl.store(logprobs_ptr + row * (1 + MOST), chosen - normaliser, mask=token >= 0)
        # Chunk by chunk, best first: of equal logits the leftmost has the lowest id.
        cell = tl.arange(0, CHUNKS_PADDED * LINE)
        place = row * chunks * MOST + (cell // LINE) * MOST + cell % LINE
        inside = (cell // LINE < chunks) & (cell % LINE < wanted)
        x = tl.load(chunk_tops_ptr + place, mask=inside, other=float("-inf"))
        for i in range(0, wanted):
            top, best = tl.max(x, axis=0, return_indices=True)
            tl.store(logprobs_ptr + row * (1 + MOST) + 1 + i, top - normaliser)
            source = row * chunks * MOST + (best // LINE) * MOST + best % LINE
            tl.store(top_ids_ptr + row * MOST + i, tl.load(chunk_top_ids_ptr + source))
            x = tl.where(cell == best, float("-inf"), x)
