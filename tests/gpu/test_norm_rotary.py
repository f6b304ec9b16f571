"""Norms, embedding lookup and rotary with the cache write at served sizes, against float64."""

from __future__ import annotations

import pytest
import torch

from ernie_kernels.triton import norm, rotary
from tests.gpu.attention_cases import DEVICE, poisoned, relative_error

EPS = 1e-5


def normalised(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    x = x.double()
    return x / (x.square().mean(-1, keepdim=True) + EPS).sqrt() * weight.double()


@pytest.mark.parametrize("hidden", [1024, 2560, 8192])
@pytest.mark.parametrize("num_tokens", [1, 7, 333])
def test_norms(hidden: int, num_tokens: int) -> None:
    x, residual, weight = (torch.randn(*shape, device=DEVICE).bfloat16() for shape in ((num_tokens, hidden),) * 2 + ((hidden,),))
    out = poisoned(num_tokens, hidden)
    norm.rms_norm(x, weight, EPS, out)
    assert relative_error(out, normalised(x, weight)) < 3e-3
    total = (x.float() + residual.float()).bfloat16()
    out = poisoned(num_tokens, hidden)
    norm.add_rms_norm(x, residual, weight, EPS, out)
    assert torch.equal(residual, total)
    assert relative_error(out, normalised(total, weight)) < 3e-3


def test_embedding() -> None:
    table = torch.randn(103424, 2560, device=DEVICE).bfloat16()
    ids = torch.tensor([0, 103423, 5, 5, 70000], dtype=torch.int32, device=DEVICE)
    out = poisoned(5, 2560)
    norm.embedding(ids, table, out)
    assert torch.equal(out, table[ids.long()])


@pytest.mark.parametrize(("num_heads", "num_kv_heads"), [(20, 4), (16, 2), (64, 8)])
@pytest.mark.parametrize("num_tokens", [1, 7, 333])
def test_rotary_kv_write(num_heads: int, num_kv_heads: int, num_tokens: int) -> None:
    angles = torch.arange(4096, device=DEVICE)[:, None] * 500000.0 ** (-torch.arange(0, 128, 2, device=DEVICE) / 128)
    cos_sin = torch.cat([angles.cos(), angles.sin()], dim=1)
    positions = torch.randint(0, 4096, (num_tokens,), device=DEVICE).int()
    slots = torch.randperm(20 * 64, device=DEVICE)[:num_tokens].int()
    slots[num_tokens // 2] = -1
    qkv = torch.randn(num_tokens, (num_heads + 2 * num_kv_heads) * 128, device=DEVICE).bfloat16()
    k_cache, v_cache, q = poisoned(20, 64, num_kv_heads, 128), poisoned(20, 64, num_kv_heads, 128), poisoned(num_tokens, num_heads, 128)
    rotary.rotary_kv_write(qkv, cos_sin, positions, slots, k_cache, v_cache, q)
    heads = qkv.view(num_tokens, -1, 128)
    a, b = heads[..., 0::2].double(), heads[..., 1::2].double()
    cos, sin = (x[:, None].double() for x in cos_sin[positions.long()].chunk(2, dim=1))
    rotated = torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2)
    assert relative_error(q, rotated[:, :num_heads]) < 3e-3
    written = slots >= 0
    rows = slots[written].long()
    keys, values = k_cache.flatten(0, 1), v_cache.flatten(0, 1)
    if len(rows):
        assert relative_error(keys[rows], rotated[written, num_heads : num_heads + num_kv_heads]) < 3e-3
        assert torch.equal(values[rows], heads[written, num_heads + num_kv_heads :])
    untouched = torch.ones(len(keys), dtype=torch.bool, device=DEVICE).index_fill(0, rows, False)
    assert keys[untouched].isnan().all() and values[untouched].isnan().all()
