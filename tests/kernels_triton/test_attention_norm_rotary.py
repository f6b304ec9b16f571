"""Norm, rotary and attention kernels, interpreted at tiny sizes against float64, with NaN in every slot that no token owns."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np
import pytest

from ernie_kernels.interpreter import Bfloat16
from ernie_kernels.triton import attention_decode, attention_prefill, norm, rotary
from ernie_kernels.triton.attention_decode import DecodePlan, DecodeWorkspace
from tests.kernels_triton.bfloat16_arrays import bf16, f32, poisoned, relative_error

EPS = 1e-5
BLOCK_SIZE = 16
DIM = 32
SCALE = DIM**-0.5
CONTEXTS = [0, 1, 63, 64, 65, 300]


@dataclass
class Cache:
    contexts: list[int]
    num_kv_heads: int
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(7))

    def __post_init__(self) -> None:
        used = [-(-context // BLOCK_SIZE) for context in self.contexts]
        scrambled = self.rng.permutation(sum(used) + 3).astype(np.int32)
        self.block_tables = np.zeros((len(used), max(used) + 1), np.int32)
        shape = (len(scrambled), BLOCK_SIZE, self.num_kv_heads, DIM)
        k, v = np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32)
        for request, context in enumerate(self.contexts):
            taken = sum(used[:request])
            self.block_tables[request, : used[request]] = scrambled[taken : taken + used[request]]
            slots = self.slots(request)
            for tensor in (k, v):
                tensor.reshape(-1, self.num_kv_heads, DIM)[slots] = self.rng.standard_normal((context, self.num_kv_heads, DIM))
        self.k, self.v = bf16(k), bf16(v)
        self.context_lens = np.array(self.contexts, np.int32)

    def slots(self, request: int) -> np.ndarray:
        tokens = np.arange(self.contexts[request])
        return self.block_tables[request, tokens // BLOCK_SIZE] * BLOCK_SIZE + tokens % BLOCK_SIZE

    def attend(self, request: int, q: np.ndarray) -> np.ndarray:
        """float64: q [n, heads, d] are the last n of the request's context → [n, heads · d]."""
        keys, values = (f32(x).reshape(-1, self.num_kv_heads, DIM)[self.slots(request)].astype(np.float64) for x in (self.k, self.v))
        num_queries, num_heads, _ = q.shape
        keys, values = (np.repeat(x, num_heads // self.num_kv_heads, axis=1) for x in (keys, values))
        scores = np.einsum("nhd,chd->hnc", q, keys) * SCALE
        visible = np.arange(len(keys)) <= (len(keys) - num_queries + np.arange(num_queries))[:, None]
        scores = np.where(visible, scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        return np.einsum("hnc,chd->nhd", weights, values).reshape(num_queries, num_heads * DIM)


def decode_workspace(num_requests: int, num_kv_heads: int, num_splits: int) -> DecodeWorkspace:
    shapes = attention_decode.decode_workspace_shapes(num_requests, num_kv_heads, num_splits, DIM)
    partials, log_sums = (np.full(shape, np.nan, np.float32) for shape in shapes[:2])
    return DecodeWorkspace(partials, log_sums, np.zeros(shapes.arrivals, np.int32))


def test_norms() -> None:
    rng = np.random.default_rng(0)
    x, residual, weight = (bf16(rng.standard_normal(shape)) for shape in ((3, 96), (3, 96), 96))

    def normalised(values: np.ndarray) -> np.ndarray:
        return values / np.sqrt(np.square(values).mean(axis=-1, keepdims=True) + EPS) * f32(weight)

    out = poisoned(3, 96)
    norm.rms_norm(x, weight, EPS, out)
    assert relative_error(f32(out), normalised(f32(x))) < 3e-3
    total = f32(bf16(f32(x) + f32(residual)))
    norm.add_rms_norm(x, residual, weight, EPS, out)
    np.testing.assert_array_equal(f32(residual), total)
    assert relative_error(f32(out), normalised(total)) < 3e-3


def test_embedding() -> None:
    table, out = bf16(np.random.default_rng(0).standard_normal((7, 96))), poisoned(3, 96)
    norm.embedding(np.array([6, 0, 3], np.int32), table, out)
    np.testing.assert_array_equal(out.bits, table.bits[[6, 0, 3]])


def rotary_inputs(cache: Cache, num_heads: int) -> tuple[Bfloat16, np.ndarray, np.ndarray, np.ndarray]:
    """qkv, cos_sin, positions and slots of each request's last token; −1 where its context is empty."""
    angles = np.arange(512)[:, None] * 500000.0 ** (-np.arange(0, DIM, 2) / DIM)
    cos_sin = np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    qkv = bf16(cache.rng.standard_normal((len(cache.contexts), (num_heads + 2 * cache.num_kv_heads) * DIM)))
    positions = np.maximum(cache.context_lens - 1, 0)
    slots = np.array([cache.slots(r)[-1] if c else -1 for r, c in enumerate(cache.contexts)], np.int32)
    return qkv, cos_sin, positions, slots


@pytest.mark.parametrize(("num_heads", "num_kv_heads"), [(5, 1), (4, 2)])
def test_rotary_kv_write(num_heads: int, num_kv_heads: int) -> None:
    cache = Cache(CONTEXTS, num_kv_heads)
    qkv, cos_sin, positions, slots = rotary_inputs(cache, num_heads)
    expected_k, expected_v = (f32(x).reshape(-1, num_kv_heads, DIM).copy() for x in (cache.k, cache.v))
    q = poisoned(len(CONTEXTS), num_heads, DIM)
    rotary.rotary_kv_write(qkv, cos_sin, positions, slots, cache.k, cache.v, q)
    heads = f32(qkv).reshape(len(CONTEXTS), -1, DIM)
    pairs = heads[..., 0::2] + 1j * heads[..., 1::2]
    turned = pairs * (cos_sin[positions, : DIM // 2] + 1j * cos_sin[positions, DIM // 2 :])[:, None]
    rotated = np.stack([turned.real, turned.imag], axis=-1).reshape(heads.shape)
    assert relative_error(f32(q), rotated[:, :num_heads]) < 3e-3
    expected_k[slots[1:]] = f32(bf16(rotated[1:, num_heads : num_heads + num_kv_heads]))
    expected_v[slots[1:]] = heads[1:, num_heads + num_kv_heads :]
    np.testing.assert_allclose(f32(cache.k).reshape(expected_k.shape), expected_k, rtol=1e-2)  # NaN where nothing was written
    np.testing.assert_array_equal(f32(cache.v).reshape(expected_v.shape), expected_v)


@pytest.mark.parametrize(("num_heads", "num_kv_heads"), [(5, 1), (16, 2)])
@pytest.mark.parametrize("plan", [DecodePlan(1, 64), DecodePlan(3, 64), DecodePlan(12, 64), DecodePlan(2, 128)])
def test_decode(num_heads: int, num_kv_heads: int, plan: DecodePlan) -> None:
    cache = Cache(CONTEXTS, num_kv_heads)
    q, out = bf16(cache.rng.standard_normal((len(CONTEXTS), num_heads, DIM))), poisoned(len(CONTEXTS), num_heads * DIM)
    workspace = decode_workspace(len(CONTEXTS), num_kv_heads, plan.num_splits)
    arguments = (q, cache.k, cache.v, cache.block_tables, cache.context_lens, SCALE, out, workspace, plan)
    for _ in range(2):  # the second time on what the first left in the workspace
        attention_decode.decode_attention(*arguments)
        assert not out.bits[0].any()
        for request in range(1, len(CONTEXTS)):
            assert relative_error(f32(out)[request], cache.attend(request, f32(q)[request : request + 1])[0]) < 4e-3, CONTEXTS[request]
        assert not workspace.arrivals.any()


@pytest.mark.parametrize("plan", [DecodePlan(1, 64), DecodePlan(3, 64), DecodePlan(2, 64, 1), DecodePlan(5, 64, 1)])
def test_rotary_inside_decode_equals_rotary_before_it(plan: DecodePlan) -> None:
    before, inside = Cache(CONTEXTS, 2), Cache(CONTEXTS, 2)
    qkv, cos_sin, positions, slots = rotary_inputs(before, 6)
    q, expected, out = poisoned(len(CONTEXTS), 6, DIM), poisoned(len(CONTEXTS), 6 * DIM), poisoned(len(CONTEXTS), 6 * DIM)
    workspace = decode_workspace(len(CONTEXTS), 2, plan.num_splits)
    rotary.rotary_kv_write(qkv, cos_sin, positions, slots, before.k, before.v, q)
    shared = (before.block_tables, before.context_lens, SCALE)
    attention_decode.decode_attention(q, before.k, before.v, *shared, expected, workspace, plan)
    attention_decode.rotary_decode_attention(qkv, cos_sin, positions, inside.k, inside.v, *shared, out, workspace, plan)
    for x, y in ((out, expected), (inside.k, before.k), (inside.v, before.v)):
        np.testing.assert_array_equal(x.bits, y.bits)


def test_plans() -> None:
    plan = attention_decode.plan_decode
    assert plan(1, 4, 600) == (10, 64, 1)  # a tile each
    assert plan(2, 2, 4096) == (32, 64, 1)
    assert plan(4, 4, 600) == (5, 128, 2)
    assert plan(1, 4, 8192) == (32, 128, 1)  # two tiles each: more splits take longer to add up than they save
    assert plan(64, 4, 600) == (1, 128, 2)
    assert plan(256, 4, 600) == (1, 64, 2)
    assert plan(256, 4, 131072) == (64, 64, 2)  # 32 tiles each
    assert plan(1, 1, 1) == (1, 64, 1)
    assert plan(1, 8, 1 << 20).num_splits == attention_decode.MAX_SPLITS


@pytest.mark.parametrize(("num_heads", "num_kv_heads"), [(5, 1), (4, 2)])
def test_prefill(num_heads: int, num_kv_heads: int) -> None:
    cache = Cache([1, 40, 17, 100, 33], num_kv_heads)
    query_lens = [1, 40, 5, 30, 1]
    cu_seqlens_q = np.concatenate([[0], np.cumsum(query_lens)]).astype(np.int32)
    q, out = bf16(cache.rng.standard_normal((sum(query_lens), num_heads, DIM))), poisoned(sum(query_lens), num_heads * DIM)
    attention_prefill.prefill_attention(
        *(q, cache.k, cache.v, cache.block_tables, cu_seqlens_q, cache.context_lens, SCALE, out),
        max_query_len=max(query_lens),
        num_requests=len(query_lens),
    )
    for request, (start, stop) in enumerate(itertools.pairwise(cu_seqlens_q)):
        assert relative_error(f32(out)[start:stop], cache.attend(request, f32(q)[start:stop])) < 4e-3, request
