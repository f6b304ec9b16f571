"""Residual, RMSNorm and router in one kernel for a few tokens: `combine_add_rms_norm` and `route` one after the other; knows no expert.

At one token both are all latency, and their sum (H200: 10 µs) is a sixth of a 21B-A3B layer.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from .. import launch
from ..launch import Argument as Tensor
from .gemm_common import prefetch_share
from .moe_router import Workspace, choose

PREFETCH_PROGRAMS = 128
"""That only ask for `ahead`. A step of 21B at one token on an H100 takes 65 µs less with them than without; 64 take 20 µs more, 32 290."""

BLOCK = 512
"""What a token's length must be a multiple of."""

MAX_TOKENS = 8
"""Every program reads a whole token, and each token has a program per expert: above, two kernels are faster."""


def combine_norm_route(
    parts: Tensor,  # [T, S, H] bfloat16 or float32
    residual: Tensor,  # [T, H] bfloat16 or float32, in and out
    norm_weight: Tensor,  # [H] bfloat16 or float32
    eps: float,
    gate: Tensor,  # [E, H] float32
    bias: Tensor,  # [E] float32
    norm_min: float,
    out: Tensor,  # [T, H] bfloat16
    weights_out: Tensor,  # [T, k] float32
    ids_out: Tensor,  # [T, k] int32
    workspace: Workspace,  # of moe_router.workspace_sizes for the same tokens
    *,
    ahead: Tensor | None = None,  # bfloat16 weights that the next kernel needs, whatever is routed
    pdl: bool = True,
) -> None:
    """residual += Σⱼ parts[t, j]; out = norm_weight · residual / sqrt(mean(residual²) + eps); weights, ids = route(out).

    T ≤ MAX_TOKENS; H a multiple of BLOCK. See `combine.combine_add_rms_norm` and `moe_router.route` for the exact meaning. With pdl `ahead`
    is fetched into L2 meanwhile.
    """
    num_tokens, num_parts, hidden = parts.shape
    num_experts, k = gate.shape[0], ids_out.shape[1]
    assert num_tokens <= MAX_TOKENS and gate.shape[1] == hidden and hidden % BLOCK == 0 and k <= num_experts
    ahead_bytes = 0 if ahead is None else 2 * math.prod(ahead.shape)
    num_warps = max(1, launch.next_power_of_2(hidden // 1280))  # 40 elements of H a thread: more do not fit its registers
    launch.run(
        combine_norm_route_kernel,
        (num_experts + (PREFETCH_PROGRAMS if ahead_bytes else 0), num_tokens),
        parts,
        residual,
        norm_weight,
        gate,
        bias,
        out,
        weights_out,
        ids_out,
        workspace.partials,
        workspace.counters,
        out if ahead is None else ahead,
        ahead_bytes,
        eps,
        norm_min,
        PARTS=num_parts,
        H=hidden,
        BLOCK=min(hidden & -hidden, 1024),
        EXPERTS=launch.next_power_of_2(num_experts),
        CHOICES=k,
        E=num_experts,
        PREFETCH_PROGRAMS=PREFETCH_PROGRAMS,
        LANES=32 * num_warps,
        num_warps=num_warps,
        pdl=pdl,
    )


@triton.jit
def combine_norm_route_kernel(
    parts_ptr,  # [T, PARTS, H]
    residual_ptr,  # [T, H]
    norm_weight_ptr,  # [H]
    gate_ptr,  # [E, H]
    bias_ptr,  # [E]
    out_ptr,  # [T, H]
    weights_ptr,  # [T, CHOICES]
    ids_ptr,  # [T, CHOICES]
    logit_ptr,  # [T, EXPERTS] float32
    counter_ptr,  # [T] int32 zeros
    ahead_ptr,
    ahead_bytes,
    eps,
    norm_min,
    PARTS: tl.constexpr,
    H: tl.constexpr,
    BLOCK: tl.constexpr,
    EXPERTS: tl.constexpr,
    CHOICES: tl.constexpr,
    E: tl.constexpr,
    PREFETCH_PROGRAMS: tl.constexpr,
    LANES: tl.constexpr,
    PDL: tl.constexpr,
):
    expert, token = tl.program_id(0), tl.program_id(1)
    if expert >= E:
        if PDL and token == 0:
            prefetch_share(ahead_ptr, ahead_bytes, expert - E, PREFETCH_PROGRAMS, LANES)
        return
    column = tl.arange(0, BLOCK)
    scales = ()
    for block in tl.static_range(H // BLOCK):  # what no kernel writes, before the wait
        gate = tl.load(gate_ptr + expert * H + block * BLOCK + column)
        norm_weight = tl.load(norm_weight_ptr + block * BLOCK + column)
        scales = scales + ((gate, norm_weight),)  # type: ignore[assignment]  # noqa: RUF005
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    stored = ()
    squares = tl.zeros([BLOCK], tl.float32)
    for block in tl.static_range(H // BLOCK):
        added = tl.zeros([BLOCK], tl.float32)
        for part in tl.static_range(PARTS):
            added += tl.load(parts_ptr + (token * PARTS + part) * H + block * BLOCK + column).to(tl.float32)
        total = tl.load(residual_ptr + token * H + block * BLOCK + column).to(tl.float32) + added
        total = total.to(residual_ptr.dtype.element_ty)
        stored = stored + (total,)  # type: ignore[assignment]  # noqa: RUF005
        squares += total.to(tl.float32) * total.to(tl.float32)
    scale = tl.rsqrt(tl.sum(squares) / H + eps)
    products = tl.zeros([BLOCK], tl.float32)
    for block in tl.static_range(H // BLOCK):
        gate, norm_weight = scales[block]
        x = (stored[block].to(tl.float32) * scale * norm_weight.to(tl.float32)).to(out_ptr.dtype.element_ty)
        products += x.to(tl.float32) * gate
    tl.store(logit_ptr + token * EXPERTS + expert, tl.sum(products))
    tl.debug_barrier()
    if tl.atomic_add(counter_ptr + token, 1, sem="acq_rel", scope="gpu") == E - 1:
        # Every program has read the residual by now: it may be overwritten.
        tl.store(counter_ptr + token, 0)
        every = tl.arange(0, EXPERTS)
        logits = tl.load(logit_ptr + token * EXPERTS + every, mask=every < E, other=0.0, cache_modifier=".cg")
        bias = tl.load(bias_ptr + every, mask=every < E, other=0.0)
        row = tl.zeros([1], tl.int32) + token
        choose(logits[None, :], bias, row, row >= 0, norm_min, weights_ptr, ids_ptr, E, EXPERTS, CHOICES)
        for block in tl.static_range(H // BLOCK):
            normed = stored[block].to(tl.float32) * scale * scales[block][1].to(tl.float32)
            tl.store(residual_ptr + token * H + block * BLOCK + column, stored[block])
            tl.store(out_ptr + token * H + block * BLOCK + column, normed.to(out_ptr.dtype.element_ty))
