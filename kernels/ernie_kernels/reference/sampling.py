"""Choosing the next token from logits, on the host in numpy; knows no request and no text.

Each row is treated alone: what it draws depends on its logits, its parameters, its seed and its position, never on its neighbours.
Order: penalties, logit bias, forbidden ids, mask → temperature → min_p → top_k → top_p (each on what the one before left) → draw.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = 2**64 - 1
_CUTOFFS = (2.0**-6, 2.0**-12)
"""Weights, relative to the largest, below which a row's tail is set aside before sorting: a trained model's candidates for top_k and top_p
lie above, and a row of 103,424 takes 0.2 ms; where they do not, the whole row is sorted (1.5 ms)."""
_DRAW_BLOCK = 256

TopLogprobs = tuple[float, tuple[int, ...], tuple[float, ...]]
"""Log-probability of the chosen token, ids of the most likely tokens, their log-probabilities."""


@dataclass(frozen=True)
class SamplingInputs:
    """R rows; entry r of every field belongs to row r of the logits."""

    temperature: np.ndarray  # [R] float64; 0 = greedy
    top_k: np.ndarray  # [R] int64; 0 = off, 1 = greedy
    top_p: np.ndarray  # [R] float64; 1 = off, 0 = greedy
    min_p: np.ndarray  # [R] float64; 0 = off
    repetition_penalty: np.ndarray  # [R] float64; 1 = off; over prompt and output ids
    frequency_penalty: np.ndarray  # [R] float64; 0 = off; over output ids
    presence_penalty: np.ndarray  # [R] float64; 0 = off; over output ids
    seed: np.ndarray  # [R] uint64
    position: np.ndarray  # [R] int64: how many output tokens the sequence has already
    prompt_token_ids: tuple[np.ndarray | None, ...]  # R int arrays; read only where repetition_penalty ≠ 1
    output_token_ids: tuple[np.ndarray | None, ...]  # R int arrays; read only where any penalty is on
    logit_bias: tuple[tuple[np.ndarray, np.ndarray] | None, ...]  # R pairs (different ids, values to add)
    forbidden_token_ids: tuple[np.ndarray | None, ...]  # R int arrays
    allowed_masks: tuple[np.ndarray | None, ...]  # R arrays [ceil(vocab / 32)] int32: bit i % 32 of word i // 32 allows id i; None = all
    num_logprobs: tuple[int | None, ...]  # R; None = none, k ≥ 0 = of the chosen token and the k most likely

    def __len__(self) -> int:
        return len(self.temperature)


@dataclass(frozen=True)
class SamplingResult:
    """One entry for each row; a row that could not be sampled stands in `failed` and has token id −1."""

    token_ids: np.ndarray  # [R] int32
    logprobs: list[TopLogprobs | None]
    failed: dict[int, str]  # row → text for the log


def sample(logits: np.ndarray, inputs: SamplingInputs) -> SamplingResult:
    """One token id for each row of `logits` [R, vocab] float32, which is not changed."""
    token_ids = np.full(len(logits), -1, np.int32)
    logprobs: list[TopLogprobs | None] = [None] * len(logits)
    failed: dict[int, str] = {}
    for row, raw in enumerate(logits):
        adjusted = adjust_logits(raw, inputs, row)
        best = int(np.argmax(adjusted))
        if not np.isfinite(adjusted[best]):
            failed[row] = f"the largest logit of this row is {adjusted[best]}: no token can be chosen"
            continue
        if inputs.temperature[row] == 0 or inputs.top_p[row] == 0 or inputs.top_k[row] == 1:
            token_ids[row] = best
        else:
            weights = np.exp(scaled_logits(adjusted, adjusted[best], inputs.temperature[row]))
            kept = surviving_token_ids(weights, int(inputs.top_k[row]), float(inputs.top_p[row]), float(inputs.min_p[row]))
            token_ids[row] = draw(weights, kept, uniform(int(inputs.seed[row]), int(inputs.position[row])))
        if (count := inputs.num_logprobs[row]) is not None:
            logprobs[row] = top_logprobs(raw, int(token_ids[row]), count)
    return SamplingResult(token_ids, logprobs, failed)


def adjust_logits(raw: np.ndarray, inputs: SamplingInputs, row: int) -> np.ndarray:
    """`raw` [vocab] under penalties, bias, forbidden ids and mask; `raw` itself where none of them is on."""
    repetition, frequency, presence = inputs.repetition_penalty[row], inputs.frequency_penalty[row], inputs.presence_penalty[row]
    penalised = repetition != 1 or frequency != 0 or presence != 0
    bias, forbidden, mask = inputs.logit_bias[row], inputs.forbidden_token_ids[row], inputs.allowed_masks[row]
    if not penalised and bias is None and forbidden is None and mask is None:
        return raw
    logits = raw.copy()
    if penalised:
        output = _ids(inputs.output_token_ids[row])
        if repetition != 1:
            seen = np.unique(np.concatenate([_ids(inputs.prompt_token_ids[row]), output]))
            logits[seen] = np.where(logits[seen] > 0, logits[seen] / repetition, logits[seen] * repetition)
        seen, counts = np.unique(output, return_counts=True)
        logits[seen] -= (frequency * counts + presence).astype(np.float32)
    if bias is not None:
        ids, values = bias
        logits[ids] += values.astype(np.float32)
    if forbidden is not None:
        logits[forbidden] = -np.inf
    if mask is not None:
        bits = np.unpackbits(mask.view(np.uint8), bitorder="little", count=len(logits))
        logits[bits == 0] = -np.inf
    return logits


def _ids(token_ids: np.ndarray | None) -> np.ndarray:
    return np.empty(0, np.int64) if token_ids is None else token_ids


def scaled_logits(logits: np.ndarray, largest: np.float32, temperature: float) -> np.ndarray:
    """(logits − largest) / temperature: the largest is exactly 0 however small the temperature is."""
    with np.errstate(over="ignore"):
        return ((logits - largest) / temperature).astype(np.float32)


def surviving_token_ids(weights: np.ndarray, top_k: int, top_p: float, min_p: float) -> np.ndarray | None:
    """Ids, ascending, that min_p, top_k and top_p leave; None = all. `weights` [vocab] ∝ probability, the largest is 1.

    min_p keeps weights ≥ min_p. top_k keeps the k largest of those. top_p keeps the fewest largest of those whose share of their
    sum reaches top_p. Of equal weights at a boundary the lower ids stay.
    """
    kept: np.ndarray | None = None
    values = weights
    if min_p > 0:
        kept = np.flatnonzero(weights >= np.float32(min_p))
        values = weights[kept]
    if 0 < top_k < len(values):
        chosen = _largest(values, top_k, _kth_largest(values, top_k, _CUTOFFS))
        kept = chosen if kept is None else kept[chosen]
        values = values[chosen]
    if top_p < 1:
        chosen = _nucleus(values, top_p)
        kept = chosen if kept is None else kept[chosen]
    return kept


def _nucleus(values: np.ndarray, top_p: float) -> np.ndarray:
    """Positions, ascending, of the fewest largest values whose sum is at least top_p of the whole sum. The largest value is 1."""
    target = top_p * values.sum(dtype=np.float64)
    candidates = values
    for cutoff in _CUTOFFS:
        above = values[values >= cutoff]
        if above.sum(dtype=np.float64) >= target:
            candidates = above
            break
    descending = np.sort(candidates)[::-1].astype(np.float64)
    count = min(int(np.searchsorted(np.cumsum(descending), target)) + 1, len(descending))
    return _largest(values, count, np.float32(descending[count - 1]))


def _kth_largest(values: np.ndarray, k: int, cutoffs: tuple[float, ...]) -> np.float32:
    """The k-th largest value (1 ≤ k ≤ len(values)). `cutoffs`, descending, are guesses at bounds below it; they only save time."""
    for cutoff in cutoffs:
        above = values[values >= cutoff]
        if len(above) >= k:
            values = above
            break
    return np.partition(values, len(values) - k)[len(values) - k]


def _largest(values: np.ndarray, count: int, smallest: np.float32) -> np.ndarray:
    """Positions, ascending, of the `count` largest values, of which `smallest` is the last; of equal ones the first stay."""
    above = values > smallest
    ties = np.flatnonzero(values == smallest)
    above[ties[: count - int(np.count_nonzero(above))]] = True
    return np.flatnonzero(above)


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) from splitmix64 of (seed, position): 53 bits, the same on every machine."""
    bits = mix(mix(seed + _GOLDEN) + (position + 1) * _GOLDEN)
    return (bits >> 11) * 2.0**-53


def mix(z: int) -> int:
    """The finaliser of splitmix64 (Steele, Lea, Flood 2014), on 64 bits."""
    z &= _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def draw(weights: np.ndarray, kept: np.ndarray | None, u: float) -> int:
    """The token id at share `u` of the cumulated weights of the kept ids, in the order of ids: first its block, then its place there."""
    values = weights if kept is None else weights[kept]
    blocks = np.cumsum(np.add.reduceat(values, np.arange(0, len(values), _DRAW_BLOCK), dtype=np.float64))
    target = u * blocks[-1]
    block = _position_of(blocks, target)
    before = blocks[block - 1] if block else 0.0
    within = np.cumsum(values[block * _DRAW_BLOCK : (block + 1) * _DRAW_BLOCK], dtype=np.float64)
    position = block * _DRAW_BLOCK + _position_of(within, target - before)
    return position if kept is None else int(kept[position])


def _position_of(cumulated: np.ndarray, target: float) -> int:
    """The first position whose cumulated sum exceeds `target`; where rounding has put the target at or above the last sum, the last
    position that adds to the sum, never one of weight 0 behind it."""
    return int(min(np.searchsorted(cumulated, target, side="right"), np.searchsorted(cumulated, cumulated[-1])))


def top_logprobs(raw: np.ndarray, token_id: int, count: int) -> TopLogprobs:
    """log_softmax(raw) at `token_id` and at the `count` most likely ids, most likely first, lower id first among equals."""
    largest = float(raw.max())
    normaliser = largest + float(np.log(np.exp(raw - np.float32(largest)).sum(dtype=np.float64)))
    if count == 0:
        return float(raw[token_id]) - normaliser, (), ()
    count = min(count, len(raw))
    chosen = _largest(raw, count, _kth_largest(raw, count, (largest - 4.0, largest - 8.0)))
    chosen = chosen[np.argsort(-raw[chosen], kind="stable")]
    return float(raw[token_id]) - normaliser, tuple(chosen.tolist()), tuple((raw[chosen].astype(np.float64) - normaliser).tolist())
