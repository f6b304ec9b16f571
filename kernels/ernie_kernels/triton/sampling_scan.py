"""The kernels of `sampling.py` that read rows in chunks, and how they read a row's parameters; know nothing of the draw."""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

_EDITS_BLOCK = tl.constexpr(128)


@triton.jit
def row_parameters(floats_ptr, integers_ptr, row):
    """temperature, top_p, min_p, top_k; all-off top_p is 1, top_k 0, min_p 0."""
    floats = floats_ptr + row * 6
    return tl.load(floats), tl.load(floats + 1), tl.load(floats + 2), tl.load(integers_ptr + row * 6).to(tl.int32)


@triton.jit
def is_greedy(temperature, top_p, top_k):
    return (temperature == 0) | (top_p == 0) | (top_k == 1)


@triton.jit
def is_penalised(floats_ptr, row):
    floats = floats_ptr + row * 6
    return (tl.load(floats + 3) != 1) | (tl.load(floats + 4) != 0) | (tl.load(floats + 5) != 0)


@triton.jit
def mask_line(integers_ptr, row):
    """The row's line of the masks, −1 without one."""
    return tl.load(integers_ptr + row * 6 + 5)


@triton.jit
def is_adjusted(floats_ptr, integers_ptr, edit_offsets_ptr, row):
    has_edits = tl.load(edit_offsets_ptr + row) < tl.load(edit_offsets_ptr + row + 1)
    return is_penalised(floats_ptr, row) | has_edits | (mask_line(integers_ptr, row) >= 0)


@triton.jit
def row_values(logits_ptr, adjusted_ptr, floats_ptr, integers_ptr, edit_offsets_ptr, row, vocab_size):
    """Where the row's logits after scan_kernel are."""
    values = logits_ptr + row * vocab_size
    if is_adjusted(floats_ptr, integers_ptr, edit_offsets_ptr, row):
        values = adjusted_ptr + row * vocab_size
    return values


@triton.jit
def chunk_line(chunk_floats_ptr, row, line, chunks, other, CHUNKS_PADDED: tl.constexpr):
    chunk = tl.arange(0, CHUNKS_PADDED)
    return tl.load(chunk_floats_ptr + (row * 3 + line) * chunks + chunk, mask=chunk < chunks, other=other)


@triton.jit
def weight(x, largest, temperature):
    """∝ probability; 1 for the largest, however small the temperature is."""
    return tl.exp((x - largest) * tl.minimum(1.0 / temperature, 3e38))


@triton.jit(do_not_specialize=["chunks"])  # Triton 3.6 fails to compile the constant 1
def scan_kernel(
    logits_ptr,  # [R, V]
    adjusted_ptr,  # [R, V], written where a row is penalised, masked or edited
    floats_ptr,  # [R, 6]
    integers_ptr,  # [R, 6]
    edit_offsets_ptr,  # [R + 1]
    chunk_floats_ptr,  # [R, 3, S], written
    edit_ids_ptr,  # [E]
    edit_values_ptr,  # [E]
    masks_ptr,  # [M, ceil(V / 32)]
    token_counts_ptr,  # [slots, V]
    chunk_best_ptr,  # [R, S], written
    vocab_size,
    chunks,
    CHUNK: tl.constexpr,
    PDL: tl.constexpr,
):
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    chunk = tl.program_id(0)
    row = tl.program_id(1).to(tl.int64)
    ids = chunk * CHUNK + tl.arange(0, CHUNK)
    inside = ids < vocab_size
    x = tl.load(logits_ptr + row * vocab_size + ids, mask=inside, other=float("-inf"))
    penalised = is_penalised(floats_ptr, row)
    first_edit = tl.load(edit_offsets_ptr + row)
    edits_end = tl.load(edit_offsets_ptr + row + 1)
    masked = mask_line(integers_ptr, row)
    if penalised | (first_edit < edits_end) | (masked >= 0):
        if penalised:
            x = _penalise(x, ids, inside, floats_ptr, integers_ptr, token_counts_ptr, row, vocab_size)
        if masked >= 0:  # before the edits, which leave −inf what it is
            words = tl.load(masks_ptr + masked * ((vocab_size + 31) // 32) + ids // 32, mask=inside, other=0)
            x = tl.where((words >> (ids % 32)) & 1 != 0, x, float("-inf"))
        adjusted = adjusted_ptr + row * vocab_size
        tl.store(adjusted + ids, x, mask=inside)
        if first_edit < edits_end:
            tl.debug_barrier()  # edits change elements that other threads of this program wrote
            for start in range(first_edit, edits_end, _EDITS_BLOCK):
                edit = start + tl.arange(0, _EDITS_BLOCK)
                edited = tl.load(edit_ids_ptr + edit, mask=edit < edits_end, other=-1)
                mine = (edited >= chunk * CHUNK) & (edited < chunk * CHUNK + CHUNK) & (edited < vocab_size)
                added = tl.load(edit_values_ptr + edit, mask=mine, other=0.0)
                tl.store(adjusted + edited, tl.load(adjusted + edited, mask=mine, other=0.0) + added, mask=mine)
            tl.debug_barrier()
            x = tl.load(adjusted + ids, mask=inside, other=float("-inf"))
    x = tl.where(x != x, float("inf"), x)  # a NaN makes its row fail, as the reference's argmax finds it
    largest, best = tl.max(x, axis=0, return_indices=True)
    smallest = tl.min(tl.where(x > float("-inf"), x, float("inf")), axis=0)
    line = chunk_floats_ptr + row * 3 * chunks + chunk
    tl.store(line, largest)
    tl.store(line + chunks, smallest)
    tl.store(chunk_best_ptr + row * chunks + chunk, chunk * CHUNK + best)
    temperature, top_p, _, top_k = row_parameters(floats_ptr, integers_ptr, row)
    if not is_greedy(temperature, top_p, top_k):
        mass = tl.sum(weight(x, tl.maximum(largest, -3.4e38), temperature), axis=0)  # a chunk of −inf only has mass 0, not NaN
        tl.store(line + 2 * chunks, mass)


@triton.jit
def _penalise(x, ids, inside, floats_ptr, integers_ptr, token_counts_ptr, row, vocab_size):
    """token_counts: 2 · times in the output + 1 if in the prompt."""
    repetition = tl.load(floats_ptr + row * 6 + 3)
    frequency = tl.load(floats_ptr + row * 6 + 4)
    presence = tl.load(floats_ptr + row * 6 + 5)
    slot = tl.load(integers_ptr + row * 6 + 3)
    counts = tl.load(token_counts_ptr + slot * vocab_size + ids, mask=inside & (slot >= 0), other=0)
    x = tl.where((counts > 0) & (repetition != 1), tl.where(x > 0, tl.div_rn(x, repetition), x * repetition), x)
    output_counts = counts >> 1
    return tl.where(output_counts > 0, x - (frequency * output_counts.to(tl.float32) + presence), x)


@triton.jit
def bracket(edges_ptr, edge_sums_ptr, row, level, top_p, top_k, chunks, NUM_EDGES: tl.constexpr, CHUNKS_PADDED: tl.constexpr):
    """Between which edges of a level (1, 2) the k-th largest logit, or else the one at which the mass reaches top_p, lies.

    → index of the lower edge, lower edge, upper edge; count and mass from the lower edge on, and from the upper; the mass of all.
    """
    edge = tl.arange(0, NUM_EDGES)
    line = row * 2 + level - 1
    edges = tl.load(edges_ptr + line * NUM_EDGES + edge)
    counts = _over_chunks(edge_sums_ptr, line, 0, chunks, NUM_EDGES, CHUNKS_PADDED).to(tl.int32)
    masses = _over_chunks(edge_sums_ptr, line, NUM_EDGES, chunks, NUM_EDGES, CHUNKS_PADDED)
    whole = tl.sum(chunk_masses(edge_sums_ptr, row, 1, 0, chunks, NUM_EDGES, CHUNKS_PADDED), axis=0)
    enough = tl.where(top_k > 0, counts >= top_k, masses >= top_p * whole)
    index = tl.maximum(tl.sum(enough.to(tl.int32), axis=0) - 1, 0)
    low = tl.max(tl.where(edge == index, edges, float("-inf")), axis=0)
    high = tl.min(tl.where(edge == index + 1, edges, float("inf")), axis=0)
    low_count = tl.sum(tl.where(edge == index, counts, 0), axis=0)
    low_mass = tl.sum(tl.where(edge == index, masses, 0.0), axis=0)
    high_count = tl.sum(tl.where(edge == index + 1, counts, 0), axis=0)
    high_mass = tl.sum(tl.where(edge == index + 1, masses, 0.0), axis=0)
    return index, low, high, low_count, low_mass, high_count, high_mass, whole


@triton.jit
def _over_chunks(edge_sums_ptr, line, offset, chunks, NUM_EDGES: tl.constexpr, CHUNKS_PADDED: tl.constexpr):
    chunk = tl.arange(0, CHUNKS_PADDED)[:, None]
    cells = (line * chunks + chunk) * 2 * NUM_EDGES + offset + tl.arange(0, NUM_EDGES)[None, :]
    return tl.sum(tl.load(edge_sums_ptr + cells, mask=chunk < chunks, other=0.0), axis=0)


@triton.jit
def chunk_masses(edge_sums_ptr, row, level, index, chunks, NUM_EDGES: tl.constexpr, CHUNKS_PADDED: tl.constexpr):
    """Each chunk's mass from an edge on; 0 from the edge behind the last on."""
    chunk = tl.arange(0, CHUNKS_PADDED)
    cells = ((row * 2 + level - 1) * chunks + chunk) * 2 * NUM_EDGES + NUM_EDGES + index
    return tl.load(edge_sums_ptr + cells, mask=(chunk < chunks) & (index < NUM_EDGES), other=0.0)


@triton.jit
def _first_edges(chunk_floats_ptr, row, top_p, top_k, temperature, largest, smallest, vocab_size, chunks, CHUNKS_PADDED: tl.constexpr):
    """The lowest edge that matters: below it lies less than 1 − top_p of the mass, however many logits there are."""
    tops = chunk_line(chunk_floats_ptr, row, 0, chunks, float("-inf"), CHUNKS_PADDED)
    masses = chunk_line(chunk_floats_ptr, row, 2, chunks, 0.0, CHUNKS_PADDED)
    whole = tl.sum(tl.where(tops > float("-inf"), masses * weight(tops, largest, temperature), 0.0), axis=0)
    nats = tl.log(vocab_size / (tl.maximum(1.0 - top_p, 1e-6) * whole))
    return tl.where(top_k > 0, smallest, tl.maximum(smallest, largest - temperature * nats))


@triton.jit(do_not_specialize=["chunks"])  # Triton 3.6 fails to compile the constant 1
def narrow_kernel(
    logits_ptr,
    adjusted_ptr,
    floats_ptr,
    integers_ptr,
    edit_offsets_ptr,
    chunk_floats_ptr,
    edges_ptr,  # [R, 2, NUM_EDGES], line LEVEL − 1 written by the program of chunk 0
    edge_sums_ptr,  # [R, 2, S, 2, NUM_EDGES], line LEVEL − 1 written
    vocab_size,
    chunks,
    CHUNK: tl.constexpr,
    COLUMNS: tl.constexpr,
    LEVEL: tl.constexpr,
    MAX_CANDIDATES: tl.constexpr,
    NUM_EDGES: tl.constexpr,
    CHUNKS_PADDED: tl.constexpr,
    PDL: tl.constexpr,
):
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    chunk = tl.program_id(0)
    row = tl.program_id(1).to(tl.int64)
    temperature, top_p, min_p, top_k = row_parameters(floats_ptr, integers_ptr, row)
    values = row_values(logits_ptr, adjusted_ptr, floats_ptr, integers_ptr, edit_offsets_ptr, row, vocab_size)
    if top_k >= vocab_size:
        top_k = 0
    wanted = (min_p > 0) | (top_k > 0) | (top_p < 1)
    if wanted & (not is_greedy(temperature, top_p, top_k)):
        largest = tl.max(chunk_line(chunk_floats_ptr, row, 0, chunks, float("-inf"), CHUNKS_PADDED), axis=0)
        smallest = tl.min(chunk_line(chunk_floats_ptr, row, 1, chunks, float("inf"), CHUNKS_PADDED), axis=0)
        needed = largest < float("inf")
        place = tl.arange(0, CHUNK // COLUMNS)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :]
        ids = chunk * CHUNK + place
        # Edges at low + step · (i − FIRST); the outer two are what the level before, or nothing, left open.
        if LEVEL == 1:
            x = tl.load(values + ids, mask=ids < vocab_size, other=float("-inf"))  # on its way while the edges are worked out
            low = _first_edges(chunk_floats_ptr, row, top_p, top_k, temperature, largest, smallest, vocab_size, chunks, CHUNKS_PADDED)
            step = (largest - low) / (NUM_EDGES - 1)
            low -= step
            first = float("-inf")
            last = low + step * (NUM_EDGES - 1)
        else:
            _, first, last, low_count, _, _, _, _ = bracket(
                edges_ptr, edge_sums_ptr, row, LEVEL - 1, top_p, top_k, chunks, NUM_EDGES, CHUNKS_PADDED
            )
            low = tl.maximum(first, smallest)
            step = (tl.minimum(last, largest) - low) / (NUM_EDGES - 1)
            needed = needed & ((top_k > 0) | (top_p < 1)) & (low_count > MAX_CANDIDATES)
        if needed:
            if LEVEL == 2:
                x = tl.load(values + ids, mask=ids < vocab_size, other=float("-inf"))
            w = weight(x, largest, temperature)
            alive = (ids < vocab_size) & (w >= min_p)
            sums = _eight_sums(x, w, alive, first, low, step, last)
            cell = ((row * 2 + LEVEL - 1) * chunks + chunk) * 2 * NUM_EDGES
            tl.store(edge_sums_ptr + cell + tl.arange(0, 2 * NUM_EDGES), sums)
            if chunk == 0:
                i = tl.arange(0, NUM_EDGES)
                edges = tl.where(i == 0, first, tl.where(i == NUM_EDGES - 1, last, low + step * i))
                tl.store(edges_ptr + (row * 2 + LEVEL - 1) * NUM_EDGES + i, edges)


@triton.jit
def _eight_sums(x, w, alive, first, low, step, last):
    """Counts, then masses, of the elements ≥ each of the edges first, low + step, …, low + 6 step, last: [16] float32.

    One reduction for all sixteen: sixteen of their own spent 150 of 200 µs (256 rows) on barriers. The joins put bit 2 of the edge's
    number first, then 1, then 0, so that the flat order is by edge.
    """
    s04 = tl.join(_above(x, w, alive, first), _above(x, w, alive, low + step * 4))
    s26 = tl.join(_above(x, w, alive, low + step * 2), _above(x, w, alive, low + step * 6))
    s15 = tl.join(_above(x, w, alive, low + step), _above(x, w, alive, low + step * 5))
    s37 = tl.join(_above(x, w, alive, low + step * 3), _above(x, w, alive, last))
    return tl.reshape(tl.sum(tl.join(tl.join(s04, s26), tl.join(s15, s37)), axis=0), [16])


@triton.jit
def _above(x, w, alive, edge):
    """Count and mass of each column of elements ≥ edge."""
    above = alive & (x >= edge)
    return tl.join(tl.sum(above.to(tl.float32), axis=0), tl.sum(tl.where(above, w, 0.0), axis=0))


@triton.jit
def find_candidates(
    edges_ptr,
    edge_sums_ptr,
    row,
    top_p,
    top_k,
    chunks,
    MAX_CANDIDATES: tl.constexpr,
    NUM_EDGES: tl.constexpr,
    CHUNKS_PADDED: tl.constexpr,
):
    """Which level's bracket becomes the list. → level, and as `bracket`."""
    level = 1
    index, low, high, low_count, low_mass, high_count, high_mass, whole = bracket(
        edges_ptr, edge_sums_ptr, row, 1, top_p, top_k, chunks, NUM_EDGES, CHUNKS_PADDED
    )
    if low_count > MAX_CANDIDATES:
        level = 2
        index, low, high, low_count, low_mass, high_count, high_mass, whole = bracket(
            edges_ptr, edge_sums_ptr, row, 2, top_p, top_k, chunks, NUM_EDGES, CHUNKS_PADDED
        )
    return level, index, low, high, low_count, low_mass, high_count, high_mass, whole


@triton.jit(do_not_specialize=["chunks"])  # Triton 3.6 fails to compile the constant 1
def collect_kernel(
    logits_ptr,
    adjusted_ptr,
    floats_ptr,
    integers_ptr,
    edit_offsets_ptr,
    chunk_floats_ptr,
    edges_ptr,
    edge_sums_ptr,
    candidates_ptr,  # [R, MAX_CANDIDATES], written
    candidate_ids_ptr,  # [R, MAX_CANDIDATES], written
    vocab_size,
    chunks,
    CHUNK: tl.constexpr,
    MAX_CANDIDATES: tl.constexpr,
    NUM_EDGES: tl.constexpr,
    CHUNKS_PADDED: tl.constexpr,
    PDL: tl.constexpr,
):
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    chunk = tl.program_id(0)
    row = tl.program_id(1).to(tl.int64)
    temperature, top_p, min_p, top_k = row_parameters(floats_ptr, integers_ptr, row)
    values = row_values(logits_ptr, adjusted_ptr, floats_ptr, integers_ptr, edit_offsets_ptr, row, vocab_size)
    if top_k >= vocab_size:
        top_k = 0
    largest = tl.max(chunk_line(chunk_floats_ptr, row, 0, chunks, float("-inf"), CHUNKS_PADDED), axis=0)
    wanted = ((top_k > 0) | (top_p < 1)) & (largest > float("-inf")) & (largest < float("inf"))
    if wanted & (not is_greedy(temperature, top_p, top_k)):
        level, index, low, high, low_count, _, high_count, _, _ = find_candidates(
            edges_ptr, edge_sums_ptr, row, top_p, top_k, chunks, MAX_CANDIDATES, NUM_EDGES, CHUNKS_PADDED
        )
        open_ended = low_count <= MAX_CANDIDATES
        if open_ended | (low_count - high_count <= MAX_CANDIDATES):
            chunk_index = tl.arange(0, CHUNKS_PADDED)
            cells = ((row * 2 + level - 1) * chunks + chunk_index) * 2 * NUM_EDGES + index
            listed = tl.load(edge_sums_ptr + cells, mask=chunk_index < chunks, other=0.0)
            closed = (chunk_index < chunks) & (not open_ended) & (index + 1 < NUM_EDGES)
            listed -= tl.load(edge_sums_ptr + cells + 1, mask=closed, other=0.0)
            if tl.sum(tl.where(chunk_index == chunk, listed, 0.0), axis=0) > 0:
                before = tl.sum(tl.where(chunk_index < chunk, listed, 0.0), axis=0).to(tl.int32)
                ids = chunk * CHUNK + tl.arange(0, CHUNK)
                x = tl.load(values + ids, mask=ids < vocab_size, other=float("-inf"))
                chosen = (ids < vocab_size) & (x >= low) & (open_ended | (x < high)) & (weight(x, largest, temperature) >= min_p)
                place = row * MAX_CANDIDATES + before + tl.cumsum(chosen.to(tl.int32), axis=0) - 1
                tl.store(candidates_ptr + place, x, mask=chosen)
                tl.store(candidate_ids_ptr + place, ids, mask=chosen)
