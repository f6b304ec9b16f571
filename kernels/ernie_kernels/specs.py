"""One `OpSpec` per operator: inputs of odd and real shapes, tolerance, bytes and floating-point operations; knows no test and no timer.
Those of models that see stand in `vision_specs.py`.

Sampling has no spec: its numpy code on the host is reference and implementation at once, and its own tests stand beside it.
"""

from __future__ import annotations

import numpy as np

from . import ops, xp
from .metadata import AttentionMetadata
from .op_spec import Inputs, OpSpec, Sizes, element_size, int32, normal, weight_array
from .reference import activation, attention, linear, moe, norm, rotary
from .reference.rotary import rope_table
from .vision_specs import VISION_SPECS
from .weights import EmbeddingWeight, ExpertWeights, LinearWeight

__all__ = ["SPECS", "Inputs", "OpSpec", "Sizes", "int32", "make_metadata", "make_paged_attention", "normal", "weight_array"]


def make_linear(rng: np.random.Generator, tokens: int, depth: int, width: int, dtype: str) -> Inputs:
    return {"x": normal(rng, tokens, depth), "w": LinearWeight(weight_array(rng, dtype, width, depth))}


def work_linear(tokens: int, depth: int, width: int, dtype: str) -> tuple[int, int]:
    return width * depth * element_size(dtype) + 4 * tokens * (depth + width), 2 * tokens * width * depth


def make_embedding(rng: np.random.Generator, tokens: int, vocab: int, hidden: int, dtype: str) -> Inputs:
    return {"ids": int32(rng.integers(0, vocab, tokens)), "w": EmbeddingWeight(weight_array(rng, dtype, vocab, hidden))}


def work_embedding(tokens: int, vocab: int, hidden: int, dtype: str) -> tuple[int, int]:
    return tokens * hidden * (element_size(dtype) + 4), 0


def make_rms_norm(rng: np.random.Generator, tokens: int, hidden: int) -> Inputs:
    return {"x": normal(rng, tokens, hidden), "weight": normal(rng, hidden), "eps": 1e-5}


def make_add_rms_norm(rng: np.random.Generator, tokens: int, hidden: int) -> Inputs:
    return {**make_rms_norm(rng, tokens, hidden), "residual": normal(rng, tokens, hidden)}


def make_add_rms_norm_linear(rng: np.random.Generator, tokens: int, hidden: int, width: int, swiglu: bool, dtype: str) -> Inputs:
    inputs = make_add_rms_norm(rng, tokens, hidden)
    inputs["norm_weight"] = inputs.pop("weight")
    return {**inputs, "w": LinearWeight(weight_array(rng, dtype, width, hidden)), "swiglu": swiglu}


def work_add_rms_norm_linear(tokens: int, hidden: int, width: int, swiglu: bool, dtype: str) -> tuple[int, int]:
    num_bytes, operations = work_linear(tokens, hidden, width, dtype)
    return num_bytes + 8 * tokens * hidden, operations + 5 * tokens * hidden


def make_swiglu(rng: np.random.Generator, tokens: int, intermediate: int) -> Inputs:
    return {"gate_up": normal(rng, tokens, 2 * intermediate) * 4.0}


def make_rotary_kv_write(rng: np.random.Generator, tokens: int, heads: int, kv_heads: int, head_dim: int, block_size: int) -> Inputs:
    """Different slots in a cache that is somewhat too large; every seventh token is padding."""
    num_blocks = tokens // block_size + 2
    slots = rng.permutation(num_blocks * block_size)[:tokens]
    slots[6::7] = -1
    return {
        "qkv": normal(rng, tokens, (heads + 2 * kv_heads) * head_dim),
        "cos_sin": rope_table(head_dim, 500000.0, 4096),
        "positions": int32(rng.integers(0, 4096, tokens)),
        "slot_mapping": int32(slots),
        "k_cache": normal(rng, num_blocks, block_size, kv_heads, head_dim),
        "v_cache": normal(rng, num_blocks, block_size, kv_heads, head_dim),
    }


def work_rotary_kv_write(tokens: int, heads: int, kv_heads: int, head_dim: int, block_size: int) -> tuple[int, int]:
    return 8 * tokens * (heads + 2 * kv_heads) * head_dim, 3 * tokens * (heads + kv_heads) * head_dim


def make_metadata(query_lens: list[int], context_lens: list[int], block_tables: list[list[int]]) -> AttentionMetadata:
    """Metadata of requests given by their lengths and blocks."""
    bounds = np.concatenate([[0], np.cumsum(query_lens)]).astype(np.int32)
    table = np.zeros((len(block_tables), max(map(len, block_tables))), np.int32)
    for row, blocks in zip(table, block_tables, strict=True):
        row[: len(blocks)] = blocks
    lengths = np.asarray(context_lens, np.int32)
    return AttentionMetadata(int32(bounds), int32(lengths), int32(table), bounds, lengths, table, max(query_lens), int(lengths.max()))


def make_paged_attention(
    rng: np.random.Generator, query_lens: list[int], context_lens: list[int], heads: int, kv_heads: int, head_dim: int, block_size: int
) -> Inputs:
    """Requests whose blocks lie scattered in the cache."""
    counts = [-(-length // block_size) for length in context_lens]
    blocks = rng.permutation(sum(counts) + 1)
    starts = np.cumsum([0, *counts])
    shape = (len(blocks), block_size, kv_heads, head_dim)
    return {
        "q": normal(rng, sum(query_lens), heads, head_dim),
        "k_cache": normal(rng, *shape),
        "v_cache": normal(rng, *shape),
        "metadata": make_metadata(query_lens, context_lens, [blocks[a : a + n].tolist() for a, n in zip(starts[:-1], counts, strict=True)]),
        "scale": float(head_dim**-0.5),
    }


def work_paged_attention(
    query_lens: list[int], context_lens: list[int], heads: int, kv_heads: int, head_dim: int, block_size: int
) -> tuple[int, int]:
    pairs = sum(n * c - n * (n - 1) // 2 for n, c in zip(query_lens, context_lens, strict=True))
    return 8 * sum(context_lens) * kv_heads * head_dim + 8 * sum(query_lens) * heads * head_dim, 4 * pairs * heads * head_dim


def make_route(rng: np.random.Generator, tokens: int, hidden: int, experts: int, k: int, biased: bool) -> Inputs:
    gate = xp.from_numpy(weight_array(rng, "float32", experts, hidden))
    bias = xp.from_numpy(rng.standard_normal(experts, np.float32) * np.float32(0.05)) if biased else None
    return {"x": normal(rng, tokens, hidden), "gate": gate, "bias": bias, "k": k, "norm_min": 1e-12}


def make_moe_experts(rng: np.random.Generator, tokens: int, hidden: int, intermediate: int, experts: int, k: int, dtype: str) -> Inputs:
    chosen = np.argsort(rng.random((tokens, experts)), axis=1)[:, :k]
    gate_up = weight_array(rng, dtype, experts, 2 * intermediate, hidden)
    return {
        "x": normal(rng, tokens, hidden),
        "weights": xp.from_numpy(rng.random((tokens, k), np.float32)),
        "expert_ids": int32(chosen),
        "experts": ExpertWeights(gate_up, weight_array(rng, dtype, experts, hidden, intermediate)),
    }


def work_moe_experts(tokens: int, hidden: int, intermediate: int, experts: int, k: int, dtype: str) -> tuple[int, int]:
    """Bytes of as many experts as are expected to be met by at least one token."""
    met = experts * (1 - (1 - k / experts) ** tokens)
    return int(met * 3 * intermediate * hidden * element_size(dtype)), 6 * tokens * k * intermediate * hidden


_TEXT_HEADS = {"heads": 16, "kv_heads": 2, "head_dim": 128, "block_size": 64}  # ERNIE-4.5-0.3B
_EXPERTS_21B = {"hidden": 2560, "intermediate": 1536, "experts": 64, "k": 6, "dtype": "bfloat16"}
_BATCHES = (1, 4, 8, 16, 64, 512)
_LINEARS = ((1024, 2560), (2048, 1024), (1024, 6144), (3072, 1024), (1024, 103424))  # qkv, out, gate_up, down, head

SPECS: tuple[OpSpec, ...] = (
    OpSpec(
        name="linear",
        reference=linear.linear,
        op=ops.linear,
        make=make_linear,
        test_sizes=tuple(
            {"tokens": tokens, "depth": depth, "width": width, "dtype": dtype}
            for tokens, depth, width in ((1, 16, 4), (1, 1, 1), (2, 37, 5), (3, 64, 7), (5, 100, 33), (9, 15, 2), (67, 130, 19))
            for dtype in ("float32", "bfloat16")
        ),
        bench_sizes=tuple(
            {"tokens": tokens, "depth": depth, "width": width, "dtype": "bfloat16"} for depth, width in _LINEARS for tokens in _BATCHES
        ),
        work=work_linear,
    ),
    OpSpec(
        name="embedding",
        reference=linear.embedding,
        op=ops.embedding,
        make=make_embedding,
        test_sizes=tuple({"tokens": t, "vocab": 11, "hidden": 6, "dtype": d} for t in (1, 7) for d in ("float32", "bfloat16")),
        bench_sizes=tuple({"tokens": tokens, "vocab": 103424, "hidden": 1024, "dtype": "bfloat16"} for tokens in _BATCHES),
        work=work_embedding,
        tolerance=0.0,
    ),
    OpSpec(
        name="rms_norm",
        reference=norm.rms_norm,
        op=ops.rms_norm,
        make=make_rms_norm,
        test_sizes=({"tokens": 1, "hidden": 1}, {"tokens": 3, "hidden": 37}, {"tokens": 70, "hidden": 128}),
        bench_sizes=tuple({"tokens": tokens, "hidden": 1024} for tokens in _BATCHES),
        work=lambda tokens, hidden: (8 * tokens * hidden, 4 * tokens * hidden),
    ),
    OpSpec(
        name="add_rms_norm",
        reference=norm.add_rms_norm,
        op=ops.add_rms_norm,
        make=make_add_rms_norm,
        test_sizes=({"tokens": 1, "hidden": 1}, {"tokens": 3, "hidden": 37}, {"tokens": 70, "hidden": 128}),
        bench_sizes=tuple({"tokens": tokens, "hidden": 1024} for tokens in _BATCHES),
        work=lambda tokens, hidden: (16 * tokens * hidden, 5 * tokens * hidden),
    ),
    OpSpec(
        name="add_rms_norm_linear",
        reference=linear.add_rms_norm_linear,
        op=ops.add_rms_norm_linear,
        make=make_add_rms_norm_linear,
        test_sizes=tuple(
            {"tokens": tokens, "hidden": hidden, "width": width, "swiglu": swiglu, "dtype": dtype}
            for tokens, hidden, width in ((1, 16, 4), (3, 37, 6), (9, 64, 34))
            for swiglu in (False, True)
            for dtype in ("float32", "bfloat16")
        ),
        bench_sizes=tuple(
            {"tokens": tokens, "hidden": 1024, "width": width, "swiglu": width == 6144, "dtype": "bfloat16"}
            for width in (2560, 6144)
            for tokens in _BATCHES
        ),
        work=work_add_rms_norm_linear,
    ),
    OpSpec(
        name="swiglu",
        reference=activation.swiglu,
        op=ops.swiglu,
        make=make_swiglu,
        test_sizes=({"tokens": 1, "intermediate": 1}, {"tokens": 3, "intermediate": 37}, {"tokens": 70, "intermediate": 128}),
        bench_sizes=tuple({"tokens": tokens, "intermediate": 3072} for tokens in _BATCHES),
        work=lambda tokens, intermediate: (12 * tokens * intermediate, 5 * tokens * intermediate),
    ),
    OpSpec(
        name="rotary_kv_write",
        reference=rotary.rotary_kv_write,
        op=ops.rotary_kv_write,
        make=make_rotary_kv_write,
        test_sizes=(
            {"tokens": 1, "heads": 1, "kv_heads": 1, "head_dim": 2, "block_size": 1},
            {"tokens": 9, "heads": 6, "kv_heads": 3, "head_dim": 10, "block_size": 4},
            {"tokens": 50, "heads": 8, "kv_heads": 1, "head_dim": 64, "block_size": 16},
        ),
        bench_sizes=tuple({"tokens": tokens, **_TEXT_HEADS} for tokens in _BATCHES),
        work=work_rotary_kv_write,
        writes=("k_cache", "v_cache"),
    ),
    OpSpec(
        name="paged_attention",
        reference=attention.paged_attention,
        op=ops.paged_attention,
        make=make_paged_attention,
        test_sizes=(
            {"query_lens": [1], "context_lens": [1], "heads": 1, "kv_heads": 1, "head_dim": 2, "block_size": 1},
            {"query_lens": [1, 5, 1], "context_lens": [3, 5, 40], "heads": 6, "kv_heads": 2, "head_dim": 10, "block_size": 2},
            {"query_lens": [33, 1, 7], "context_lens": [33, 129, 100], "heads": 10, "kv_heads": 2, "head_dim": 80, "block_size": 16},
            {"query_lens": [150, 1], "context_lens": [300, 257], "heads": 8, "kv_heads": 1, "head_dim": 64, "block_size": 128},
        ),
        bench_sizes=(
            *({"query_lens": [1] * n, "context_lens": [c] * n, **_TEXT_HEADS} for n, c in ((1, 128), (1, 2048), (8, 128), (8, 1024))),
            *({"query_lens": [n], "context_lens": [n], **_TEXT_HEADS} for n in (64, 512, 2048)),
        ),
        work=work_paged_attention,
    ),
    OpSpec(
        name="route",
        reference=moe.route,
        op=ops.route,
        make=make_route,
        test_sizes=tuple(
            {"tokens": tokens, "hidden": 20, "experts": experts, "k": k, "biased": biased}
            for tokens, experts, k in ((1, 1, 1), (7, 5, 2), (40, 64, 6))
            for biased in (False, True)
        ),
        bench_sizes=tuple({"tokens": tokens, "hidden": 2560, "experts": 64, "k": 6, "biased": True} for tokens in _BATCHES),
        work=lambda tokens, hidden, experts, k, biased: (4 * hidden * (tokens + experts), 2 * tokens * hidden * experts),
    ),
    OpSpec(
        name="moe_experts",
        reference=moe.moe_experts,
        op=ops.moe_experts,
        make=make_moe_experts,
        test_sizes=tuple(
            {"tokens": tokens, "hidden": hidden, "intermediate": intermediate, "experts": experts, "k": k, "dtype": dtype}
            for tokens, hidden, intermediate, experts, k in ((1, 8, 4, 1, 1), (5, 20, 9, 7, 3), (530, 18, 5, 4, 2))
            for dtype in ("float32", "bfloat16")
        ),
        bench_sizes=tuple({"tokens": tokens, **_EXPERTS_21B} for tokens in _BATCHES),
        work=work_moe_experts,
    ),
    *VISION_SPECS,
)
