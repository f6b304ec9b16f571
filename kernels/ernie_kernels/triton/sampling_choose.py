"""The last kernel of `sampling.py`: a row's exact threshold, its random number and its token; knows the row's chunks by their sums."""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from .sampling_scan import chunk_line, chunk_masses, find_candidates, is_greedy, row_parameters, row_values, weight

_NO_LIMIT = tl.constexpr(2**31 - 1)


@triton.jit
def _key(x):
    """int64 that orders as the float32 does."""
    bits = x.to(tl.int32, bitcast=True)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64)


@triton.jit
def _value(key):
    """The float32 of a key."""
    bits = key.to(tl.int32)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def _mix(z):
    """The finaliser of splitmix64."""
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    return z ^ (z >> 31)


@triton.jit
def _uniform(seed, position):
    """A float64 in [0, 1), bit for bit the reference's."""
    bits = _mix(_mix(seed.to(tl.uint64) + 0x9E3779B97F4A7C15) + (position + 1).to(tl.uint64) * 0x9E3779B97F4A7C15)
    return (bits >> 11).to(tl.float64) * (1.0 / 9007199254740992.0)


@triton.jit
def _from_value_on(values, length, least, largest, temperature, min_p, BLOCK: tl.constexpr):
    """Count and mass of the elements ≥ least that min_p leaves."""
    counts = tl.zeros([BLOCK], tl.int32)
    masses = tl.zeros([BLOCK], tl.float32)
    for start in range(0, length, BLOCK):
        place = start + tl.arange(0, BLOCK)
        x = tl.load(values + place, mask=place < length, other=float("-inf"))
        w = weight(x, largest, temperature)
        chosen = (place < length) & (x >= least) & (w >= min_p)
        counts += chosen.to(tl.int32)
        masses += tl.where(chosen, w, 0.0)
    return tl.sum(counts, axis=0), tl.sum(masses, axis=0)


@triton.jit
def _search(
    values,
    length,
    by_count,  # enough = `need` elements, else enough = mass `need`
    need,
    ends,  # keys from which on there is enough and not enough; count and mass from each on
    above_count,  # beyond the elements of `values`
    above_mass,
    scale,  # largest, temperature, min_p
    BLOCK: tl.constexpr,
):
    """Narrows [low, high) until it holds one element, or equal ones. → `ends` of that."""
    low, high, low_count, low_mass, high_count, high_mass = ends
    largest, temperature, min_p = scale
    while (low + 1 < high) & (low_count - high_count > 1):
        middle = low + (high - low) // 2
        count, mass = _from_value_on(values, length, _value(middle), largest, temperature, min_p, BLOCK)
        count += above_count
        mass += above_mass
        if tl.where(by_count, count.to(tl.float32) >= need, mass >= need):
            low = middle
            low_count = count
            low_mass = mass
        else:
            high = middle
            high_count = count
            high_mass = mass
    return low, high, low_count, low_mass, high_count, high_mass


@triton.jit
def _id_of_tie(values, ids, listed, length, low, high, number, largest, temperature, min_p, BLOCK: tl.constexpr):
    """Id of the number-th element (from 1) in [low, high), in the order of ids."""
    found = -1
    seen = 0
    start = 0
    while (start < length) & (found < 0):
        place = start + tl.arange(0, BLOCK)
        x = tl.load(values + place, mask=place < length, other=float("-inf"))
        tied = (place < length) & (x >= low) & (x < high) & (weight(x, largest, temperature) >= min_p)
        count = tl.sum(tied.to(tl.int32), axis=0)
        if seen + count >= number:
            rank = seen + tl.cumsum(tied.to(tl.int32), axis=0)
            found = tl.max(tl.where(tied & (rank == number), place, -1), axis=0)
        seen += count
        start += BLOCK
    if listed & (found >= 0):
        found = tl.load(ids + found)
    return found


@triton.jit
def _draw(
    values,
    ids,
    listed,  # the elements' ids are in `ids`, else an element's place is its id
    start,
    end,
    target,  # cumulated mass at which the token lies
    low,  # survivors: ≥ high; and those in [low, high) with id ≤ last_tie
    high,
    last_tie,
    largest,
    temperature,
    min_p,
    BLOCK: tl.constexpr,
):
    """Id of the first survivor in [start, end) at which the cumulated mass exceeds `target`; of the last one where rounding hides it."""
    found = -1
    final = -1
    passed = 0.0
    while (start < end) & (found < 0):
        place = start + tl.arange(0, BLOCK)
        inside = place < end
        x = tl.load(values + place, mask=inside, other=float("-inf"))
        names = tl.where(listed, tl.load(ids + place, mask=inside & listed, other=0), place)
        w = weight(x, largest, temperature)
        survives = inside & (w >= min_p) & ((x >= high) | ((x >= low) & (names <= last_tie)))
        w = tl.where(survives, w, 0.0)
        mass = tl.sum(w, axis=0)
        if mass > 0:
            final = tl.max(tl.where(w > 0, place, -1), axis=0)
            if passed + mass > target:
                first = tl.min(tl.where((w > 0) & (passed + tl.cumsum(w, axis=0) > target), place, end), axis=0)
                found = tl.where(first < end, first, final)
        passed += mass
        start += BLOCK
    found = tl.where(found < 0, final, found)
    if listed & (found >= 0):
        found = tl.load(ids + found)
    return found


@triton.jit
def _chunk_of_draw(masses, u, vocab_size, CHUNK: tl.constexpr, CHUNKS_PADDED: tl.constexpr):
    """The chunk at share u of the cumulated masses. → its first id, the id behind it, the mass left to pass within it."""
    chunk_index = tl.arange(0, CHUNKS_PADDED)
    cumulated = tl.cumsum(masses, axis=0)
    target = (u * tl.sum(masses, axis=0).to(tl.float64)).to(tl.float32)
    last = tl.max(tl.where(masses > 0, chunk_index, 0), axis=0)
    chunk = tl.minimum(tl.sum((cumulated <= target).to(tl.int32), axis=0), last)
    before = tl.sum(tl.where(chunk_index == chunk, cumulated - masses, 0.0), axis=0)
    return chunk * CHUNK, tl.minimum(chunk * CHUNK + CHUNK, vocab_size), target - before


@triton.jit(do_not_specialize=["chunks"])  # Triton 3.6 fails to compile the constant 1
def choose_kernel(
    logits_ptr,
    adjusted_ptr,
    floats_ptr,
    integers_ptr,
    edit_offsets_ptr,
    chunk_floats_ptr,
    edges_ptr,
    edge_sums_ptr,
    candidates_ptr,
    candidate_ids_ptr,
    chunk_best_ptr,
    token_counts_ptr,  # [slots, V], the chosen token counted
    token_ids_ptr,  # [R], written
    vocab_size,
    chunks,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
    TRUNCATED: tl.constexpr,
    MAX_CANDIDATES: tl.constexpr,
    NUM_EDGES: tl.constexpr,
    CHUNKS_PADDED: tl.constexpr,
    PDL: tl.constexpr,
):
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    row = tl.program_id(0).to(tl.int64)
    temperature, top_p, min_p, top_k = row_parameters(floats_ptr, integers_ptr, row)
    tops = chunk_line(chunk_floats_ptr, row, 0, chunks, float("-inf"), CHUNKS_PADDED)
    largest, best = tl.max(tops, axis=0, return_indices=True)
    token = -1
    if (largest > float("-inf")) & (largest < float("inf")):
        if is_greedy(temperature, top_p, top_k):
            token = tl.load(chunk_best_ptr + row * chunks + best)
        else:
            u = _uniform(tl.load(integers_ptr + row * 6 + 1), tl.load(integers_ptr + row * 6 + 2))
            masses = chunk_line(chunk_floats_ptr, row, 2, chunks, 0.0, CHUNKS_PADDED) * weight(tops, largest, temperature)
            if TRUNCATED and min_p > 0:  # what it leaves: edge 0 of the first narrowing
                masses = chunk_masses(edge_sums_ptr, row, 1, 0, chunks, NUM_EDGES, CHUNKS_PADDED)
            start, end, target = _chunk_of_draw(masses, u, vocab_size, CHUNK, CHUNKS_PADDED)
            values = row_values(logits_ptr, adjusted_ptr, floats_ptr, integers_ptr, edit_offsets_ptr, row, vocab_size)
            ids = candidate_ids_ptr + row * MAX_CANDIDATES
            listed = end < 0
            low = float("-inf")
            high = float("inf")
            last_tie = _NO_LIMIT
            if TRUNCATED:
                if top_k >= vocab_size:
                    top_k = 0
                if (top_k > 0) | (top_p < 1):
                    candidates = candidates_ptr + row * MAX_CANDIDATES
                    found = (edges_ptr, edge_sums_ptr, row)
                    drawn = (largest, temperature, top_p, min_p, top_k)
                    values, listed, start, end, target, low, high, last_tie = _survivors(
                        values, candidates, ids, found, drawn, u, vocab_size, chunks, CHUNK, BLOCK, MAX_CANDIDATES, NUM_EDGES, CHUNKS_PADDED
                    )
            token = _draw(values, ids, listed, start, end, target, low, high, last_tie, largest, temperature, min_p, BLOCK)
        slot = tl.load(integers_ptr + row * 6 + 3)
        if slot >= 0:
            count = token_counts_ptr + slot * vocab_size + token
            tl.store(count, tl.load(count) + 2)
    tl.store(token_ids_ptr + row, token)


@triton.jit
def _survivors(
    values,
    candidates,
    candidate_ids,
    found,
    drawn,
    u,
    vocab_size,
    chunks,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
    MAX_CANDIDATES: tl.constexpr,
    NUM_EDGES: tl.constexpr,
    CHUNKS_PADDED: tl.constexpr,
):
    """What top_k and then top_p leave. → where the draw reads, whether that is the list, from where to where, the mass to pass there, and
    who survives (≥ high, or in [low, high) with id ≤ last_tie)."""
    edges_ptr, edge_sums_ptr, row = found
    largest, temperature, top_p, min_p, top_k = drawn
    level, index, low_edge, high_edge, low_count, low_mass, high_count, high_mass, whole = find_candidates(
        edges_ptr, edge_sums_ptr, row, top_p, top_k, chunks, MAX_CANDIDATES, NUM_EDGES, CHUNKS_PADDED
    )
    has_all = low_count <= MAX_CANDIDATES  # the list goes up to the largest
    listed = has_all | ((low_count - high_count <= MAX_CANDIDATES) & ((top_k == 0) | (top_p >= 1)))
    above_count = tl.where(listed & (not has_all), high_count, 0)
    above_mass = tl.where(listed & (not has_all), high_mass, 0.0)
    searched = values
    length = vocab_size
    if listed:
        searched = candidates
        length = low_count - above_count
    low = _key(low_edge)
    high = tl.where(high_edge <= largest, _key(high_edge), _key(largest) + 1)
    both = (top_k > 0) & (top_p < 1)
    need = tl.where(top_k > 0, top_k.to(tl.float32), top_p * whole)
    by_count = top_k > 0
    stages = 1 + both.to(tl.int32)
    kept = 0
    ties = 0
    mass = 0.0
    for stage in range(0, stages):
        low, high, low_count, low_mass, high_count, high_mass = _search(
            searched,
            length,
            by_count,
            need,
            (low, high, low_count, low_mass, high_count, high_mass),
            above_count,
            above_mass,
            (largest, temperature, min_p),
            BLOCK,
        )
        # [low, high) holds equal logits, or one: `kept` of them survive, the lowest ids first.
        ties = low_count - high_count
        each = (low_mass - high_mass) / tl.maximum(ties, 1).to(tl.float32)
        kept = tl.where(by_count, top_k - high_count, tl.ceil((need - high_mass) / tl.maximum(each, 1e-38)).to(tl.int32))
        kept = tl.minimum(tl.maximum(kept, 1), ties)
        mass = high_mass + each * kept.to(tl.float32)
        if stage + 1 < stages:  # top_p among what top_k left
            by_count = top_k < 0
            need = top_p * mass
            low_count = high_count + kept
            low_mass = mass
            high = _key(largest) + 1
            high_count = 0
            high_mass = 0.0
    low_value = _value(low)
    high_value = _value(high)
    last_tie = _NO_LIMIT
    if (kept < ties) | both:
        last_tie = _id_of_tie(searched, candidate_ids, listed, length, low_value, high_value, kept, largest, temperature, min_p, BLOCK)
    start = 0
    target = (u * mass).to(tl.float32)  # in float64, as u is
    if listed & (not has_all):
        above = chunk_masses(edge_sums_ptr, row, level, index + 1, chunks, NUM_EDGES, CHUNKS_PADDED)
        survivors = (low_value, high_value, last_tie)
        scale = (largest, temperature, min_p)
        chunk, passed = _chunk_among_survivors(
            candidates, candidate_ids, length, above, target, survivors, scale, chunks, CHUNK, BLOCK, CHUNKS_PADDED
        )
        searched = values
        start = chunk * CHUNK
        length = tl.minimum(start + CHUNK, vocab_size)
        target -= passed
    return searched, has_all, start, length, target, low_value, high_value, last_tie


@triton.jit
def _chunk_among_survivors(
    candidates,
    candidate_ids,
    length,
    above,  # [CHUNKS_PADDED]: mass of each chunk's logits beyond the list
    target,
    survivors,  # low, high, last_tie, as in _draw
    scale,  # largest, temperature, min_p
    chunks,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNKS_PADDED: tl.constexpr,
):
    """The last chunk before which no more than `target` lies (and not all). → its number, the mass before it."""
    chunk_index = tl.arange(0, CHUNKS_PADDED)
    whole = tl.sum(above, axis=0) + _mass_before(candidates, candidate_ids, length, chunks * CHUNK, survivors, scale, BLOCK)
    first = 0
    end = chunks
    passed = 0.0
    while first + 1 < end:
        middle = (first + end) // 2
        before = tl.sum(tl.where(chunk_index < middle, above, 0.0), axis=0)
        before += _mass_before(candidates, candidate_ids, length, middle * CHUNK, survivors, scale, BLOCK)
        if (before <= target) & (before < whole):
            first = middle
            passed = before
        else:
            end = middle
    return first, passed


@triton.jit
def _mass_before(values, ids, length, end_id, survivors, scale, BLOCK: tl.constexpr):
    """Mass of the listed survivors whose ids are below end_id."""
    low, high, last_tie = survivors
    largest, temperature, min_p = scale
    masses = tl.zeros([BLOCK], tl.float32)
    for start in range(0, length, BLOCK):
        place = start + tl.arange(0, BLOCK)
        x = tl.load(values + place, mask=place < length, other=float("-inf"))
        names = tl.load(ids + place, mask=place < length, other=end_id)
        w = weight(x, largest, temperature)
        survives = (names < end_id) & (w >= min_p) & ((x >= high) | ((x >= low) & (names <= last_tie)))
        masses += tl.where(survives, w, 0.0)
    return tl.sum(masses, axis=0)
