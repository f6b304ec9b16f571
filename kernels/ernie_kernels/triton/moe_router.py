"""The router of a mixture layer and the plan that groups its choices by expert; knows no expert's weights.

Products are exact: a float32 router weight is the sum of three bfloat16 numbers, x is bfloat16, and sums are float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from .. import launch
from ..launch import Argument as Tensor
from .gemm_common import prefetch_to_l2

DEPTH = 64


@dataclass(frozen=True)
class Workspace:
    """Scratch of the routers; kernels that follow each other on a stream may share it."""

    partials: Tensor  # [≥ workspace_sizes(…)[0]] float32, any contents
    counters: Tensor  # [≥ workspace_sizes(…)[1]] int32, zeros; every kernel leaves zeros behind


@dataclass(frozen=True)
class ExpertPlan:
    """Which rows each program of the experts' kernels works on: the chosen slots grouped by expert, each expert padded to whole tiles.

    A slot is one of the k + n answers that a token needs: slot t · (k + n) + j, j < k chosen by the router, j ≥ k the n shared experts,
    which every token uses and which are not listed here. A padding entry holds T · (k + n).
    """

    tile: int  # slots per tile
    slots: Tensor  # [≥ max_tiles · tile] int32
    tile_expert: Tensor  # [≥ max_tiles] int32
    num_tiles: Tensor  # [1] int32


def max_tiles(num_tokens: int, experts_per_token: int, num_experts: int, tile: int) -> int:
    """The most tiles that any routing of `num_tokens` tokens can need: what a grid must cover, since the host never sees the routing."""
    slots = num_tokens * experts_per_token
    return min(slots, (slots + min(num_experts, slots) * (tile - 1)) // tile)


def workspace_sizes(num_tokens: int, num_experts: int, hidden_size: int, *, uniform: bool = False) -> tuple[int, int]:
    """(float32 elements, int32 elements) of the `Workspace` for up to `num_tokens` tokens, of `route` and of `combine_norm_route`."""
    floats, ints = 8, 8  # a row for each program's token, and of combine_norm_route's eight
    for tokens in {1, *range(16, num_tokens, 16), num_tokens}:
        tile, split = _route_tile(tokens, hidden_size, uniform)
        tiles = launch.cdiv(tokens, tile)
        floats, ints = max(floats, split * tiles * tile), max(ints, tiles)
    return floats * _padded(num_experts), ints


def _padded(num_experts: int) -> int:
    """Experts as kernels count them: a power of two, and enough rows for the matrix unit."""
    return max(16, launch.next_power_of_2(num_experts))


def route(
    x: Tensor,  # [T, H] bfloat16
    gate: Tensor,  # [E, H] float32
    bias: Tensor,  # [E] float32
    k: int,
    norm_min: float,
    weights_out: Tensor,  # [T, k] float32
    ids_out: Tensor,  # [T, k] int32
    workspace: Workspace,
    *,
    uniform: bool = False,
    pdl: bool = True,
) -> None:
    """p = softmax(x Gᵀ); ids = the k largest of p + bias, largest first, lower id first among equals; weights = p[ids] / max(Σ, norm_min).

    H a multiple of 64. Every id is in 0..E-1 whatever x holds. `uniform`: the order of a logit's sum does not depend on T.
    """
    num_tokens, hidden = x.shape
    num_experts = gate.shape[0]
    assert gate.shape[1] == hidden and hidden % DEPTH == 0 and k <= num_experts
    tile, split = _route_tile(num_tokens, hidden, uniform)
    launch.run(
        route_kernel,
        (launch.cdiv(num_tokens, tile), split),
        x,
        gate,
        bias,
        weights_out,
        ids_out,
        workspace.partials,
        workspace.counters,
        num_tokens,
        hidden,
        norm_min,
        E=num_experts,
        EXPERTS=_padded(num_experts),
        CHOICES=k,
        TOKENS=tile,
        DEPTH=DEPTH,
        SPLIT=split,
        LANES=max(128, launch.next_power_of_2(num_experts)),
        num_warps=4,
        num_stages=2 if tile == 16 else 3,
        pdl=pdl,
    )


def _route_tile(num_tokens: int, hidden: int, uniform: bool) -> tuple[int, int]:
    """(tokens per program, programs along H). One token: 64 x 2560 float32 weights are too much for one program, 20 take 2 steps each."""
    steps = hidden // DEPTH
    few = uniform or num_tokens <= 512
    most = 20 if few else 4
    return (16 if few else 64), max(split for split in range(1, most + 1) if steps % split == 0)


def sort_by_expert(
    ids: Tensor,  # [T, k] int32
    num_experts: int,
    num_shared: int,
    plan: ExpertPlan,  # output
    *,
    pdl: bool = True,
) -> None:
    """Fills `plan`: slots ordered by (expert, token), each expert's run padded to a multiple of plan.tile; the expert of each tile; the
    number of tiles. Stable and deterministic. One program per expert scans all ids, so nothing has to be passed between programs.
    """
    num_tokens, k = ids.shape
    chosen = num_tokens * k
    block = min(8192, max(128, launch.next_power_of_2(chosen)))
    launch.run(
        sort_kernel,
        (num_experts,),
        ids,
        plan.slots,
        plan.tile_expert,
        plan.num_tiles,
        chosen,
        k,
        num_tokens * (k + num_shared),
        SLOTS_PER_TOKEN=k + num_shared,
        EXPERTS=launch.next_power_of_2(num_experts),
        TILE=plan.tile,
        BLOCK=block,
        num_warps=4 if block <= 1024 else 8 if block <= 4096 else 16,
        pdl=pdl,
    )


@triton.jit
def bfloat16_parts(w):
    """float32 → three bfloat16 whose sum it is (8 bits of mantissa each)."""
    high = w.to(tl.bfloat16)
    rest = w - high.to(tl.float32)
    middle = rest.to(tl.bfloat16)
    return high, middle, (rest - middle.to(tl.float32)).to(tl.bfloat16)


@triton.jit(do_not_specialize=["T"])  # as in linear.tile_kernel
def route_kernel(
    x_ptr,  # [T, H]
    gate_ptr,  # [E, H] float32
    bias_ptr,  # [E] float32
    weights_ptr,  # [T, CHOICES] float32
    ids_ptr,  # [T, CHOICES] int32
    partial_ptr,  # [SPLIT, T padded to TOKENS, EXPERTS] float32
    counter_ptr,  # [token tiles] int32 zeros
    T,
    H,
    norm_min,
    E: tl.constexpr,
    EXPERTS: tl.constexpr,
    CHOICES: tl.constexpr,
    TOKENS: tl.constexpr,
    DEPTH: tl.constexpr,
    SPLIT: tl.constexpr,
    LANES: tl.constexpr,
    PDL: tl.constexpr,
):
    token_tile, part = tl.program_id(0), tl.program_id(1)
    expert = tl.arange(0, EXPERTS)
    token = token_tile * TOKENS + tl.arange(0, TOKENS)
    length = H // SPLIT
    depth = part * length + tl.arange(0, DEPTH)
    gate_pointers = gate_ptr + tl.minimum(expert, E - 1)[:, None] * H + depth[None, :]
    if PDL:
        lane = tl.arange(0, LANES)
        prefetch_to_l2(gate_ptr + tl.minimum(lane, E - 1) * H + part * length, tl.where(lane < E, length * 4, 0))
        gdc_wait()
        gdc_launch_dependents()
    x_pointers = x_ptr + tl.minimum(token, T - 1)[None, :] * H + depth[:, None]
    products = tl.zeros([EXPERTS, TOKENS], tl.float32)
    for _step in range(0, length, DEPTH):
        x = tl.load(x_pointers)
        high, middle, low = bfloat16_parts(tl.load(gate_pointers))
        # A sum of its own for each step: the matrix unit truncates when it adds to a large one (8192 elements: 1e-4 of a weight).
        step = tl.dot(low, x)
        step = tl.dot(middle, x, step)
        products += tl.dot(high, x, step)
        gate_pointers += DEPTH
        x_pointers += DEPTH

    logits = tl.trans(products)
    last = True
    if SPLIT > 1:
        tiles = tl.num_programs(0)
        cell = tl.arange(0, TOKENS)[:, None] * EXPERTS + expert[None, :]
        real = (token < T)[:, None] & (expert < EXPERTS)[None, :]
        tl.store(partial_ptr + (part * tiles + token_tile) * (TOKENS * EXPERTS) + cell, logits, mask=real)
        tl.debug_barrier()  # every thread's partial sums before the arrival that announces them
        last = tl.atomic_add(counter_ptr + token_tile, 1, sem="acq_rel", scope="gpu") == SPLIT - 1
        if last:
            tl.store(counter_ptr + token_tile, 0)
            logits = tl.zeros([TOKENS, EXPERTS], tl.float32)
            for other in tl.static_range(SPLIT):
                base = partial_ptr + (other * tiles + token_tile) * (TOKENS * EXPERTS)
                logits += tl.load(base + cell, mask=real, other=0.0, cache_modifier=".cg")
    if last:
        bias = tl.load(bias_ptr + expert, mask=expert < E, other=0.0)
        choose(logits, bias, token, token < T, norm_min, weights_ptr, ids_ptr, E, EXPERTS, CHOICES)


@triton.jit
def better(score, index, p, other_score, other_index, other_p):
    """The higher score; of equal ones the lower index."""
    first = (score > other_score) | ((score == other_score) & (index < other_index))
    return tl.where(first, score, other_score), tl.where(first, index, other_index), tl.where(first, p, other_p)


@triton.jit
def choose(
    logits,  # [R, EXPERTS] float32
    bias,  # [EXPERTS] float32
    token,  # [R]
    real,  # [R] bool
    norm_min,
    weights_ptr,
    ids_ptr,
    E: tl.constexpr,
    EXPERTS: tl.constexpr,
    CHOICES: tl.constexpr,
):
    """Softmax, the CHOICES best of p + bias and their renormalised p, written for the rows that are real."""
    expert = tl.arange(0, EXPERTS)
    logits = tl.where((expert < E)[None, :], logits, float("-inf"))
    p = tl.exp(logits - tl.max(logits, axis=1)[:, None])
    p = p / tl.sum(p, axis=1)[:, None]
    score = tl.where((expert < E)[None, :], p + bias[None, :], float("-inf"))
    index = tl.zeros_like(score).to(tl.int32) + expert[None, :]
    norm = tl.zeros_like(tl.max(score, axis=1))
    chosen = ()
    for _rank in tl.static_range(CHOICES):
        _best, best_index, weight = tl.reduce((score, index, p), 1, better)
        best_index = tl.minimum(best_index, E - 1)  # whatever x held, an id is an address later
        score = tl.where(index == best_index[:, None], float("-inf"), score)
        norm += weight
        chosen = chosen + ((best_index, weight),)  # type: ignore[assignment]  # noqa: RUF005
    norm = tl.maximum(norm, norm_min)
    for rank in tl.static_range(CHOICES):
        best_index, weight = chosen[rank]
        tl.store(ids_ptr + token * CHOICES + rank, best_index, mask=real)
        tl.store(weights_ptr + token * CHOICES + rank, weight / norm, mask=real)


@triton.jit(do_not_specialize=["chosen", "sentinel"])  # as in linear.tile_kernel
def sort_kernel(
    ids_ptr,  # [chosen] int32
    slots_ptr,  # [tiles · TILE] int32
    tile_expert_ptr,  # [tiles] int32
    num_tiles_ptr,  # [1] int32
    chosen,
    k,
    sentinel,
    SLOTS_PER_TOKEN: tl.constexpr,
    EXPERTS: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    expert = tl.program_id(0)
    lane = tl.arange(0, BLOCK)
    all_experts = tl.arange(0, EXPERTS)
    counts = tl.zeros([EXPERTS], tl.int32)
    for start in range(0, chosen, BLOCK):
        inside = start + lane < chosen
        counts += tl.histogram(tl.load(ids_ptr + start + lane, mask=inside, other=0), EXPERTS, mask=inside)
    tiles = (counts + TILE - 1) // TILE
    first_tile = tl.sum(tl.where(all_experts < expert, tiles, 0))
    own_tiles = tl.sum(tl.where(all_experts == expert, tiles, 0))
    if expert == 0:
        tl.store(num_tiles_ptr, tl.sum(tiles))

    place = first_tile * TILE
    for start in range(0, chosen, BLOCK):
        index = start + lane
        hit = (tl.load(ids_ptr + index, mask=index < chosen, other=-1) == expert).to(tl.int32)
        position = place + tl.cumsum(hit, axis=0) - 1
        tl.store(slots_ptr + position, index // k * SLOTS_PER_TOKEN + index % k, mask=hit > 0)
        place += tl.sum(hit)
    end = (first_tile + own_tiles) * TILE
    padding = place + tl.arange(0, TILE)
    tl.store(slots_ptr + padding, tl.zeros([TILE], tl.int32) + sentinel, mask=padding < end)
    for start in range(0, own_tiles, 128):
        own = start + tl.arange(0, 128)
        tl.store(tile_expert_ptr + first_tile + own, tl.zeros([128], tl.int32) + expert, mask=own < own_tiles)
