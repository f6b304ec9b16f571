"""Decode and prefill attention at served sizes: against float32, to the bit where order must not matter, with NaN wherever nothing is."""

from __future__ import annotations

import pytest
import torch

from ernie_kernels.triton import attention_decode, attention_prefill, rotary
from ernie_kernels.triton.attention_decode import DecodePlan, DecodeWorkspace
from tests.gpu.attention_cases import DEVICE, Cache, attend, make_cache, poisoned, relative_error

HEADS = [(20, 4), (16, 2), (64, 8)]  # 21B-A3B, 0.3B, 300B
SCALE = 128**-0.5
TOLERANCE = 4e-3  # bfloat16 weights and output: 2e-3 measured


def decode_workspace(num_requests: int, num_kv_heads: int, num_splits: int) -> DecodeWorkspace:
    shapes = attention_decode.decode_workspace_shapes(num_requests, num_kv_heads, num_splits)
    partials, log_sums = (poisoned(*shape, dtype=torch.float32) for shape in shapes[:2])
    return DecodeWorkspace(partials, log_sums, torch.zeros(shapes.arrivals, dtype=torch.int32, device=DEVICE))


def decode(q: torch.Tensor, cache: Cache, plan: DecodePlan, workspace: DecodeWorkspace | None = None) -> torch.Tensor:
    num_requests, num_heads, head_dim = q.shape
    workspace = workspace or decode_workspace(num_requests, cache.k.shape[2], plan.num_splits)
    out = poisoned(num_requests, num_heads * head_dim)
    attention_decode.decode_attention(q, cache.k, cache.v, cache.block_tables, cache.context_lens, SCALE, out, workspace, plan)
    return out


def prefill(q: torch.Tensor, cache: Cache, query_lens: list[int]) -> torch.Tensor:
    cu_seqlens_q = torch.tensor([0, *query_lens], device=DEVICE).cumsum(0).int()
    out = poisoned(q.shape[0], q.shape[1] * q.shape[2])
    attention_prefill.prefill_attention(
        *(q, cache.k, cache.v, cache.block_tables, cu_seqlens_q, cache.context_lens, SCALE, out),
        max_query_len=max(query_lens),
        num_requests=len(query_lens),
    )
    return out


def random_queries(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, device=DEVICE).bfloat16()


@pytest.mark.parametrize(("num_heads", "num_kv_heads"), HEADS)
@pytest.mark.parametrize("plan", [DecodePlan(1, 64), DecodePlan(3, 64), DecodePlan(64, 64), DecodePlan(1, 128), DecodePlan(17, 128, 1)])
def test_decode(num_heads: int, num_kv_heads: int, plan: DecodePlan) -> None:
    contexts = [0, 1, 63, 64, 65, 1000, 8191]
    cache = make_cache(contexts, num_kv_heads)
    q = random_queries(len(contexts), num_heads, 128)
    workspace = decode_workspace(len(contexts), num_kv_heads, plan.num_splits)
    out = decode(q, cache, plan, workspace)
    assert not out[0].any()
    for request in range(1, len(contexts)):
        expected = attend(q[request : request + 1], *cache.rows(request), SCALE)[0]
        assert relative_error(out[request], expected) < TOLERANCE, contexts[request]
    assert not workspace.arrivals.any()
    assert torch.equal(decode(q, cache, plan, workspace), out)  # whichever program arrives last
    alone = Cache(cache.k, cache.v, cache.block_tables[5:6], cache.context_lens[5:6], contexts[5:6], cache.block_size)
    assert torch.equal(decode(q[5:6], alone, plan)[0], out[5])


@pytest.mark.parametrize(("num_heads", "num_kv_heads"), HEADS)
@pytest.mark.parametrize("plan", [DecodePlan(4, 64), DecodePlan(8, 128, 1), DecodePlan(9, 64, 1), DecodePlan(16, 64, 1)])
def test_rotary_inside_decode_equals_rotary_before_it(num_heads: int, num_kv_heads: int, plan: DecodePlan) -> None:
    contexts = [1, 64, 65, 0, 1000]
    before, inside = make_cache(contexts, num_kv_heads), make_cache(contexts, num_kv_heads)
    positions = before.context_lens - 1
    positions[3] = 0
    slots = torch.tensor([int(before.slots(r)[-1]) if c else -1 for r, c in enumerate(contexts)], dtype=torch.int32, device=DEVICE)
    angles = torch.arange(1000, device=DEVICE)[:, None] * 500000.0 ** (-torch.arange(0, 128, 2, device=DEVICE) / 128)
    cos_sin = torch.cat([angles.cos(), angles.sin()], dim=1)
    qkv = random_queries(len(contexts), (num_heads + 2 * num_kv_heads) * 128)
    q = poisoned(len(contexts), num_heads, 128)
    rotary.rotary_kv_write(qkv, cos_sin, positions, slots, before.k, before.v, q)
    expected = decode(q, before, plan)
    out = poisoned(len(contexts), num_heads * 128)
    attention_decode.rotary_decode_attention(
        *(qkv, cos_sin, positions, inside.k, inside.v, inside.block_tables, inside.context_lens, SCALE, out),
        decode_workspace(len(contexts), num_kv_heads, plan.num_splits),
        plan,
    )
    assert relative_error(out, expected.float()) < 1e-3  # another compilation of the same sums: single elements round the other way
    assert torch.equal(inside.k.view(torch.int16), before.k.view(torch.int16))
    assert torch.equal(inside.v.view(torch.int16), before.v.view(torch.int16))


@pytest.mark.parametrize(("num_heads", "num_kv_heads"), HEADS)
def test_prefill(num_heads: int, num_kv_heads: int) -> None:
    contexts = [1, 63, 64, 65, 127, 128, 129, 1000, 2500]
    query_lens = [1, 63, 1, 65, 100, 128, 7, 1000, 333]
    cache = make_cache(contexts, num_kv_heads)
    q = random_queries(sum(query_lens), num_heads, 128)
    out = prefill(q, cache, query_lens)
    start = 0
    for request, query_len in enumerate(query_lens):
        expected = attend(q[start : start + query_len], *cache.rows(request), SCALE)
        assert relative_error(out[start : start + query_len], expected) < TOLERANCE, (contexts[request], query_len)
        start += query_len


def test_prefill_of_a_chunk_is_that_of_the_whole_to_the_bit() -> None:
    cache = make_cache([1500], 4)
    q = random_queries(1500, 20, 128)
    whole = prefill(q, cache, [1500])
    done = 0
    for chunk in (1, 699, 37, 763):
        done += chunk
        cache.context_lens[0] = done
        assert torch.equal(prefill(q[done - chunk : done].contiguous(), cache, [chunk]), whole[done - chunk : done])
