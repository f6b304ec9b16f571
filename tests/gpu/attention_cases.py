"""Requests with scrambled blocks, and attention over them in float32; knows no kernel. Every slot that no token owns holds NaN."""

from __future__ import annotations

from dataclasses import dataclass

import torch

DEVICE = "cuda"


@dataclass
class Cache:
    k: torch.Tensor  # [num_blocks, block_size, kv, d] bfloat16
    v: torch.Tensor
    block_tables: torch.Tensor  # [R, max_blocks] int32
    context_lens: torch.Tensor  # [R] int32
    contexts: list[int]
    block_size: int

    def slots(self, request: int) -> torch.Tensor:
        """Where each token of the request's context lies, as a row of the flattened cache."""
        tokens = torch.arange(self.contexts[request], device=DEVICE)
        blocks = self.block_tables[request, tokens // self.block_size].long()
        return blocks * self.block_size + tokens % self.block_size

    def rows(self, request: int) -> tuple[torch.Tensor, torch.Tensor]:
        """float32 keys and values of the request: [context, kv, d] each."""
        slots = self.slots(request)
        return self.k.flatten(0, 1)[slots].float(), self.v.flatten(0, 1)[slots].float()


def make_cache(contexts: list[int], num_kv_heads: int, head_dim: int = 128, block_size: int = 64, seed: int = 0) -> Cache:
    generator = torch.Generator(device=DEVICE).manual_seed(seed)
    used = [-(-context // block_size) for context in contexts]
    num_blocks = sum(used) + 7
    scrambled = torch.randperm(num_blocks, generator=generator, device=DEVICE).int()
    tables = torch.zeros(len(contexts), max([*used, 1]) + 2, dtype=torch.int32, device=DEVICE)
    taken = 0
    for request, count in enumerate(used):
        tables[request, :count] = scrambled[taken : taken + count]
        taken += count
    shape = (num_blocks, block_size, num_kv_heads, head_dim)
    k, v = (torch.full(shape, torch.nan, dtype=torch.bfloat16, device=DEVICE) for _ in range(2))
    cache = Cache(k, v, tables, torch.tensor(contexts, dtype=torch.int32, device=DEVICE), contexts, block_size)
    for request in range(len(contexts)):
        slots = cache.slots(request)
        for tensor in (k, v):
            rows = torch.randn(len(slots), num_kv_heads, head_dim, generator=generator, device=DEVICE)
            tensor.view(-1, num_kv_heads, head_dim)[slots] = rows.bfloat16()
    return cache


def attend(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float) -> torch.Tensor:
    """One request in float32: q [n, heads, d] are the last n of the context; keys, values [c, kv, d] → [n, heads · d]."""
    num_queries, num_heads, head_dim = q.shape
    context, num_kv_heads = keys.shape[:2]
    keys, values = (x.repeat_interleave(num_heads // num_kv_heads, dim=1) for x in (keys, values))
    scores = torch.einsum("nhd,chd->hnc", q.float(), keys) * scale
    positions = torch.arange(context, device=DEVICE)
    visible = positions[None] <= (context - num_queries + torch.arange(num_queries, device=DEVICE))[:, None]
    weights = scores.masked_fill(~visible, -torch.inf).softmax(dim=-1)
    return torch.einsum("hnc,chd->nhd", weights, values).reshape(num_queries, num_heads * head_dim)


def poisoned(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.full(shape, torch.nan, dtype=dtype, device=DEVICE)


def relative_error(x: torch.Tensor, reference: torch.Tensor) -> float:
    return float((x.float() - reference).norm() / reference.norm())
