"""What is computed beside a token never changes its result: equal to the last bit, however the step is cut."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from ernie_kernels import ops, xp
from ernie_kernels.cpu import compile as compilation
from ernie_kernels.specs import SPECS, int32, make_metadata, make_paged_attention, weight_array

ROW_SPECS = {
    "linear": ({"depth": 100, "width": 37}, "x"),
    "rms_norm": ({"hidden": 100}, "x"),
    "swiglu": ({"intermediate": 50}, "gate_up"),
    "route": ({"hidden": 100, "experts": 16, "k": 4, "biased": True}, "x"),
}
CUTS = ([1] * 23, [2, 3, 4, 5, 9], [16, 7], [8, 8, 7])


def arrays(result) -> list[np.ndarray]:
    return [xp.to_numpy(x) for x in (result if isinstance(result, tuple) else (result,))]


def check_same(parts: list[list[np.ndarray]], whole: list[np.ndarray]) -> None:
    for joined, expected in zip((np.concatenate(column) for column in zip(*parts, strict=True)), whole, strict=True):
        np.testing.assert_array_equal(joined, expected)


def slices(lengths):
    bounds = np.cumsum([0, *lengths]).tolist()
    return [slice(a, b) for a, b in pairwise(bounds)]


@pytest.mark.parametrize("cut", CUTS, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ROW_SPECS)
def test_rows_do_not_depend_on_their_neighbours(name, dtype, cut):
    spec = next(spec for spec in SPECS if spec.name == name)
    sizes, argument = ROW_SPECS[name]
    inputs = spec.make(np.random.default_rng(5), tokens=23, **sizes, **({"dtype": dtype} if name == "linear" else {}))
    whole = arrays(spec.op(**inputs))
    check_same([arrays(spec.op(**{**inputs, argument: inputs[argument][part]})) for part in slices(cut)], whole)


@pytest.mark.parametrize("tokens", [1, 5, 200])
def test_long_batches_of_wide_rows_equal_single_rows(tokens):
    """Deep enough that a long batch takes several passes over the weights."""
    rng = np.random.default_rng(6)
    w = ops.pack_linear(weight_array(rng, "bfloat16", 6, 3072))
    x = rng.standard_normal((tokens, 3072), np.float32)
    whole = xp.to_numpy(ops.linear(xp.from_numpy(x), w))
    alone = np.concatenate([xp.to_numpy(ops.linear(xp.from_numpy(row[None]), w)) for row in x])
    np.testing.assert_array_equal(alone, whole)


@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_experts_do_not_depend_on_who_else_chose_them(cut):
    spec = next(spec for spec in SPECS if spec.name == "moe_experts")
    inputs = spec.make(np.random.default_rng(7), tokens=23, hidden=40, intermediate=20, experts=6, k=3, dtype="bfloat16")
    whole = arrays(spec.op(**inputs))
    parts = [arrays(spec.op(**{**inputs, **{n: inputs[n][part] for n in ("x", "weights", "expert_ids")}})) for part in slices(cut)]
    check_same(parts, whole)


def attention_case(tokens: int, block_size: int) -> tuple[dict, list[int]]:
    """One request of `tokens` tokens, all of them queries, and its blocks."""
    inputs = make_paged_attention(np.random.default_rng(8), [tokens], [tokens], 6, 2, 48, block_size)
    return inputs, inputs["metadata"].block_tables_host[0].tolist()


@pytest.mark.parametrize("block_size", [1, 4, 64, 128])
@pytest.mark.parametrize("chunk", [1, 7, 64, 100])
def test_attention_in_chunks_equals_attention_in_one(chunk, block_size):
    inputs, blocks = attention_case(150, block_size)
    whole = xp.to_numpy(ops.paged_attention(**inputs))
    for start in range(0, 150, chunk):
        stop = min(150, start + chunk)
        metadata = make_metadata([stop - start], [stop], [blocks])
        part = ops.paged_attention(inputs["q"][start:stop], inputs["k_cache"], inputs["v_cache"], metadata, inputs["scale"])
        np.testing.assert_array_equal(xp.to_numpy(part), whole[start:stop])


def test_attention_beside_others_equals_attention_alone():
    lengths = ([1, 9, 1, 30], [70, 9, 1, 65])
    inputs = make_paged_attention(np.random.default_rng(9), *lengths, 8, 2, 32, 16)
    together = xp.to_numpy(ops.paged_attention(**inputs))
    tables = inputs["metadata"].block_tables_host.tolist()
    for part, query_len, context_len, table in zip(slices(lengths[0]), *lengths, tables, strict=True):
        metadata = make_metadata([query_len], [context_len], [table])
        alone = ops.paged_attention(inputs["q"][part], inputs["k_cache"], inputs["v_cache"], metadata, inputs["scale"])
        np.testing.assert_array_equal(xp.to_numpy(alone), together[part])


def test_attention_reads_nothing_behind_the_context():
    inputs, blocks = attention_case(21, 16)
    clean = xp.to_numpy(ops.paged_attention(**inputs))
    for cache in (inputs["k_cache"], inputs["v_cache"]):
        xp.host_view(cache)[blocks[1], 5:] = np.nan  # slots 21 … 31
    np.testing.assert_array_equal(xp.to_numpy(ops.paged_attention(**inputs)), clean)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_the_number_of_threads_changes_nothing(spec):
    before = compilation.num_threads()
    inputs = spec.make(np.random.default_rng(10), **spec.test_sizes[-1])
    try:
        results = []
        for count in (1, 2, 3, 16):
            ops.warm_up(count)
            results.append(spec.run(spec.op, inputs))
    finally:
        compilation.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_padding_tokens_write_nothing():
    k_cache, v_cache = xp.zeros([2, 4, 1, 8], "float32"), xp.zeros([2, 4, 1, 8], "float32")
    qkv = xp.from_numpy(np.ones((3, 24), np.float32))
    ops.rotary_kv_write(qkv, ops.rope_table(8, 500000.0, 4), int32([0, 1, 2]), int32([-1, -1, -1]), k_cache, v_cache)
    assert not xp.to_numpy(k_cache).any() and not xp.to_numpy(v_cache).any()
