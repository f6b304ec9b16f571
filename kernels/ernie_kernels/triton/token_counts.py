"""Which tokens each sequence has seen, on the device: what penalties read and `sample` adds to; knows no sequence, only slots.

A line of V int32 for each slot: 2 · how often the token is in the output, + 1 if it is in the prompt (0.4 MB at 103,424 tokens). Only
sequences with a penalty need a slot.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .. import launch
from ..launch import Argument as Tensor

_BLOCK = 1024


def set_token_counts(token_counts: Tensor, slot: int, token_ids: Tensor, num_prompt_tokens: int, num_tokens: int) -> None:
    """token_counts[slot] = counts of a sequence whose prompt, then output, stand in token_ids[: num_tokens].

    token_counts [slots, V] int32; token_ids [≥ num_tokens] int32 in [0, V). For a sequence that enters the batch, anew or after a
    preemption.
    """
    slots, vocab_size = token_counts.shape
    assert 0 <= slot < slots and 0 <= num_prompt_tokens <= num_tokens <= token_ids.shape[0]
    launch.run(_clear_kernel, (launch.cdiv(vocab_size, _BLOCK),), token_counts, slot, vocab_size, BLOCK=_BLOCK)
    grid = (max(1, launch.cdiv(num_tokens, _BLOCK)),)
    launch.run(_count_kernel, grid, token_counts, slot, vocab_size, token_ids, num_prompt_tokens, num_tokens, BLOCK=_BLOCK)


@triton.jit(do_not_specialize=["slot"])
def _clear_kernel(token_counts_ptr, slot, vocab_size, BLOCK: tl.constexpr):
    ids = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(token_counts_ptr + slot.to(tl.int64) * vocab_size + ids, 0, mask=ids < vocab_size)


@triton.jit(do_not_specialize=["slot", "num_prompt_tokens", "num_tokens"])
def _count_kernel(token_counts_ptr, slot, vocab_size, token_ids_ptr, num_prompt_tokens, num_tokens, BLOCK: tl.constexpr):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    line = token_counts_ptr + slot.to(tl.int64) * vocab_size
    token = tl.load(token_ids_ptr + place, mask=place < num_tokens, other=0)
    tl.atomic_or(line + token, 1, mask=place < num_prompt_tokens)
    tl.atomic_add(line + token, 2, mask=(place >= num_prompt_tokens) & (place < num_tokens))
