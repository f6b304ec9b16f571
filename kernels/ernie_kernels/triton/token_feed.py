"""Token ids of a step, some of which the host does not know yet because the step before has only just chosen them; knows no sequence."""

from __future__ import annotations

import triton
import triton.language as tl

from .. import launch
from ..launch import Argument as Tensor

_BLOCK = 1024


def feed_tokens(token_ids: Tensor, sampled: Tensor, out: Tensor) -> None:
    """out[t] = token_ids[t], or where that is negative, −1 − r: sampled[r], what row r of the step before chose (0 if it failed).

    token_ids, out [T] int32; sampled [R] int32.
    """
    num_tokens = token_ids.shape[0]
    launch.run(_feed_tokens_kernel, (launch.cdiv(num_tokens, _BLOCK),), token_ids, sampled, out, num_tokens, BLOCK=_BLOCK)


@triton.jit(do_not_specialize=["num_tokens"])
def _feed_tokens_kernel(token_ids_ptr, sampled_ptr, out_ptr, num_tokens, BLOCK: tl.constexpr):
    token = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = token < num_tokens
    given = tl.load(token_ids_ptr + token, mask=inside, other=0)
    chosen = tl.load(sampled_ptr - 1 - given, mask=inside & (given < 0), other=0)
    tl.store(out_ptr + token, tl.where(given < 0, tl.maximum(chosen, 0), given), mask=inside)
