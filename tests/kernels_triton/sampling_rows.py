"""Rows to sample from, the kernels run on them on any device, and the comparison with the reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ernie_kernels.reference import sampling as reference
from ernie_kernels.triton import logprobs, sampling, token_counts

ToDevice = Callable[[np.ndarray], Any]
ToHost = Callable[[Any], np.ndarray]


def same(x: Any) -> Any:
    return x


def inputs(num_rows: int, **changes: Any) -> reference.SamplingInputs:
    """Rows that draw from everything at temperature 1, seeds 0, 1, …, save what `changes` says: a value for all rows, or one for each."""
    off: dict[str, Any] = {
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "frequency_penalty": 0.0,
        "presence_penalty": 0.0,
        "seed": np.arange(num_rows, dtype=np.uint64),
        "position": 3,
    }
    lists = ("prompt_token_ids", "output_token_ids", "logit_bias", "forbidden_token_ids", "allowed_masks", "num_logprobs")
    ragged: dict[str, Any] = dict.fromkeys(lists)
    arrays = {name: np.broadcast_to(np.asarray(changes.get(name, value)), (num_rows,)) for name, value in off.items()}
    tuples = {name: changes.get(name, (None,) * num_rows) for name in ragged}
    return reference.SamplingInputs(**arrays, **tuples)


def random_rows(rng: np.random.Generator, num_rows: int, vocab_size: int) -> tuple[np.ndarray, reference.SamplingInputs]:
    """Flat and peaked rows, with ties, forbidden ids and not-a-numbers, under every mixture of parameters."""
    logits = rng.standard_normal((num_rows, vocab_size), np.float32) * rng.choice([0.01, 0.5, 1, 3, 8], (num_rows, 1)).astype(np.float32)
    for row in logits:
        match rng.integers(12):
            case 0:
                row[:] = np.round(row * 2) / 2
            case 1:
                row[:] = 1
            case 2:
                row[rng.random(vocab_size) < 0.7] = -np.inf
            case 3:
                row[vocab_size // 3] = np.nan

    def sometimes(share: float, values: Sequence[float], off: float) -> np.ndarray:
        return np.where(rng.random(num_rows) < share, rng.choice(values, num_rows), off)

    masks = [mask_of(rng.random(vocab_size) < rng.choice([0.0005, 0.3, 0.9])) if rng.random() < 0.3 else None for _ in range(num_rows)]
    return logits, inputs(
        num_rows,
        allowed_masks=tuple(masks),
        temperature=sometimes(0.9, [0.1, 0.7, 1, 2], 0),
        top_k=sometimes(0.5, [1, 2, 20, 100, 900, 5000], 0).astype(np.int64),
        top_p=sometimes(0.5, [0, 0.1, 0.5, 0.8, 0.95, 0.999], 1),
        min_p=sometimes(0.3, [0.001, 0.05, 0.5], 0),
        seed=rng.integers(0, 2**63, num_rows).astype(np.uint64),
        position=rng.integers(0, 10_000, num_rows),
    )


def mask_of(allowed: np.ndarray) -> np.ndarray:
    """[V] bool → [ceil(V / 32)] int32."""
    padded = np.zeros(-(-len(allowed) // 32) * 32, bool)
    padded[: len(allowed)] = allowed
    return np.packbits(padded, bitorder="little").view(np.int32)


def sample(
    logits: np.ndarray,
    rows: reference.SamplingInputs,
    to_device: ToDevice = same,
    to_host: ToHost = same,
    *,
    slots: np.ndarray | None = None,
    counts: Any = None,
    truncated: bool = True,
) -> np.ndarray:
    """The kernels' token ids [R]. Workspaces are poisoned first."""
    num_rows, vocab_size = logits.shape
    masked = [mask for mask in rows.allowed_masks if mask is not None]
    lines = np.cumsum([mask is not None for mask in rows.allowed_masks]) - 1
    lines = np.where([mask is None for mask in rows.allowed_masks], -1, lines)
    packed = sampling.pack_rows(rows, np.full(num_rows, -1) if slots is None else slots, lines)
    packed["masks"] = np.stack(masked) if masked else np.zeros((1, -(-vocab_size // 32)), np.int32)
    if len(packed["edit_ids"]) == 0:  # no framework likes to give the address of nothing
        packed |= {"edit_ids": np.zeros(1, np.int32), "edit_values": np.zeros(1, np.float32)}
    device_rows = sampling.SamplingRows(**{name: to_device(array) for name, array in packed.items()})
    workspace = sampling.SamplingWorkspace(**poisoned(sampling.workspace_shapes(num_rows, vocab_size), to_device))
    if counts is None:
        counts = to_device(np.zeros((1, vocab_size), np.int32))
    token_ids = to_device(np.full(num_rows, -9, np.int32))
    sampling.sample(to_device(logits), device_rows, counts, workspace, token_ids, truncated=truncated, pdl=True)
    return to_host(token_ids)


def poisoned(shapes: dict[str, tuple[tuple[int, ...], str]], to_device: ToDevice) -> dict[str, Any]:
    return {name: to_device(np.full(shape, -7 if dtype == "int32" else np.nan, dtype)) for name, (shape, dtype) in shapes.items()}


def count_tokens(rows: reference.SamplingInputs, vocab_size: int, to_device: ToDevice = same) -> Any:
    """Token counts [R, V] with a slot for each row."""
    counts = to_device(np.full((len(rows), vocab_size), -7, np.int32))
    for slot, (prompt, output) in enumerate(zip(rows.prompt_token_ids, rows.output_token_ids, strict=True)):
        prompt, output = (np.empty(0, np.int32) if ids is None else ids for ids in (prompt, output))
        known = np.concatenate([prompt, output, [0]]).astype(np.int32)
        token_counts.set_token_counts(counts, slot, to_device(known), len(prompt), len(prompt) + len(output))
    return counts


def top_logprobs(
    logits: np.ndarray, rows: reference.SamplingInputs, token_ids: np.ndarray, to_device: ToDevice = same, to_host: ToHost = same
) -> tuple[np.ndarray, np.ndarray]:
    num_rows, vocab_size = logits.shape
    integers = to_device(sampling.pack_rows(rows, np.full(num_rows, -1), np.full(num_rows, -1))["integers"])
    workspace = logprobs.LogprobsWorkspace(**poisoned(logprobs.workspace_shapes(num_rows, vocab_size), to_device))
    values = to_device(np.full((num_rows, 1 + logprobs.MAX_LOGPROBS), np.nan, np.float32))
    ids = to_device(np.full((num_rows, logprobs.MAX_LOGPROBS), -7, np.int32))
    logprobs.top_logprobs(to_device(logits), integers, to_device(token_ids), workspace, values, ids, pdl=True)
    return to_host(values), to_host(ids)


def disagreements(logits: np.ndarray, rows: reference.SamplingInputs, token_ids: np.ndarray, tolerance: float) -> list[str]:
    """Rows whose token the reference would not choose, even with a random number `tolerance` away from its own.

    Sums of 103,424 float32 weights have an error of about 1e-7, and so have exponentials: the token next to a boundary is as right.
    """
    wrong = []
    for row, (token, expected) in enumerate(zip(token_ids, reference.sample(logits, rows).token_ids, strict=True)):
        if token == expected:
            continue
        if min(token, expected) < 0 or rows.temperature[row] == 0:
            wrong.append(f"row {row}: {token}, expected {expected}")
            continue
        adjusted = reference.adjust_logits(logits[row], rows, row)
        weights = np.exp(reference.scaled_logits(adjusted, adjusted.max(), rows.temperature[row]))
        kept = reference.surviving_token_ids(weights, int(rows.top_k[row]), float(rows.top_p[row]), float(rows.min_p[row]))
        mass = weights.astype(np.float64)
        if kept is not None:
            mass = np.zeros_like(mass)
            mass[kept] = weights[kept]
        cumulated = np.cumsum(mass) / mass.sum()
        u = reference.uniform(int(rows.seed[row]), int(rows.position[row]))
        before = cumulated[token] - mass[token] / mass.sum()
        if mass[token] == 0 or not before - tolerance <= u <= cumulated[token] + tolerance:
            wrong.append(f"row {row}: {token} covers [{before}, {cumulated[token]}], expected {expected} at {u}")
    return wrong
