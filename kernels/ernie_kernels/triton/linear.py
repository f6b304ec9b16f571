"""Dense linears of the decode step, y = x Wᵀ for up to 512 tokens; knows no layer. More tokens are left to the framework's matmul.

One pass over the weights is the floor. One token: a matrix-vector product whose programs hold all their weights in registers before they
wait for the kernel before. More tokens: weights are the left operand of `tl.dot` and tokens the columns, so that few tokens waste no rows
of the matrix units; where that gives too few programs, K is split, and the last program of a tile to arrive adds the parts in fixed order.
"""

from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from .. import launch
from ..launch import Argument as Tensor
from .gemm_common import prefetch_to_l2, silu_mul, tile_product, weight_rows

MAX_TOKENS = 512


@dataclass(frozen=True)
class Workspace:
    """Scratch of the split products; kernels that follow each other on a stream may share it."""

    partials: Tensor  # [≥ workspace_sizes(...)[0]] float32, any contents
    counters: Tensor  # [≥ workspace_sizes(...)[1]] int32, zeros; every kernel leaves zeros behind


@dataclass(frozen=True)
class SplitTile:
    """One configuration of the kernel for more than one token."""

    rows: int  # weight rows per program (with gate and up: half of each)
    tokens: int  # columns
    depth: int  # elements of K per step
    split: int  # programs that share a tile along K
    num_warps: int
    num_stages: int
    slices: int = 1  # see gemm_common.tile_product


def linear(
    x: Tensor,  # [T, K] bfloat16
    w: Tensor,  # [N, K] bfloat16
    out: Tensor,  # [T, N] bfloat16 or float32 (lm_head)
    workspace: Workspace,
    *,
    residual: Tensor | None = None,  # [T, N] bfloat16; may be `out` itself
    pdl: bool = True,
) -> None:
    """out = x Wᵀ (+ residual), accumulated in float32. T ≤ 512; K a multiple of 128."""
    _launch(x, w, out, workspace, residual, silu=False, pdl=pdl)


def gate_up_silu(x: Tensor, w: Tensor, out: Tensor, workspace: Workspace, *, pdl: bool = True) -> None:
    """out = silu(x Gᵀ) · (x Uᵀ): x [T, K], w [2·I, K] with the rows of G first, out [T, I], all bfloat16. T ≤ 512; K a multiple of 128."""
    _launch(x, w, out, workspace, None, silu=True, pdl=pdl)


def workspace_sizes(num_tokens: int, shapes: list[tuple[int, int]]) -> tuple[int, int]:
    """(float32 elements, int32 elements) of a `Workspace` for up to `num_tokens` tokens and weights [N, K] of these shapes."""
    floats = ints = 1
    for tokens in range(1, min(num_tokens, MAX_TOKENS) + 1):
        for n, k in shapes:
            if tokens <= GEMV_TOKENS:
                continue
            tile = split_tile(tokens, n, k)
            tiles = triton.cdiv(tokens, tile.tokens) * triton.cdiv(n, tile.rows)
            if tile.split > 1:
                floats, ints = max(floats, tile.split * tiles * tile.rows * tile.tokens), max(ints, tiles)
    return floats, ints


GEMV_TOKENS = 1


def split_tile(num_tokens: int, n: int, k: int) -> SplitTile:
    """The measured choice for `num_tokens` tokens and a weight [n, k]."""
    tokens = min(64, max(8, triton.next_power_of_2(num_tokens)))
    rows = 64 if tokens <= 16 else 128
    split = 1
    while split < 8 and k % (split * 2 * 128) == 0 and triton.cdiv(n, rows) * triton.cdiv(num_tokens, tokens) * split < 300:
        split *= 2
    return SplitTile(rows, tokens, 128 if tokens <= 16 else 64, split, 4, 4)


def _launch(x: Tensor, w: Tensor, out: Tensor, workspace: Workspace, residual: Tensor | None, *, silu: bool, pdl: bool) -> None:
    num_tokens, k = x.shape
    n = w.shape[0]
    assert w.shape[1] == k and out.shape[1] * (1 + silu) == n and num_tokens <= MAX_TOKENS and k % 128 == 0 and n % 32 == 0
    if num_tokens <= GEMV_TOKENS:
        launch_gemv(x, w, out, residual, silu=silu, pdl=pdl)
    else:
        launch_split(x, w, out, workspace, residual, split_tile(num_tokens, n, k), silu=silu, pdl=pdl)


def launch_gemv(
    x: Tensor, w: Tensor, out: Tensor, residual: Tensor | None, *, silu: bool, pdl: bool, rows: int = 4, num_warps: int = 4
) -> None:
    """`linear` for a few tokens. Each thread holds rows · K / threads weights, and must have registers for them (128: 64 registers)."""
    num_tokens, k = x.shape
    n = w.shape[0]
    while rows * k > 128 * 32 * num_warps and num_warps < 16:
        num_warps *= 2
    launch.run(
        gemv_kernel,
        (n // rows,),
        x,
        w,
        out if residual is None else residual,
        out,
        n,
        K=k,
        T=num_tokens,
        ROWS=rows,
        BLOCK=min(k & -k, 4096),
        SILU=silu,
        RESIDUAL=residual is not None,
        num_warps=num_warps,
        pdl=pdl,
    )


def prefetch_bytes(length: int, rows: int, programs: int) -> int:
    """How much of each weight row a program of the first wave asks for before it may start: together at most 16 MB, since more would push
    out of L2 what is not yet used (lm_head, 16 tokens, without this limit: 183 instead of 130 µs)."""
    return min(length * 2, (16 << 20) // (rows * min(programs, 400)) // 128 * 128)


def launch_split(
    x: Tensor, w: Tensor, out: Tensor, workspace: Workspace, residual: Tensor | None, tile: SplitTile, *, silu: bool, pdl: bool
) -> None:
    """`linear` for two tokens or more, in one given configuration."""
    num_tokens, k = x.shape
    n = w.shape[0]
    assert k % (tile.split * tile.depth * tile.slices) == 0
    grid = (triton.cdiv(num_tokens, tile.tokens), triton.cdiv(n, tile.rows), tile.split)
    programs = grid[0] * grid[1] * grid[2]
    launch.run(
        split_kernel,
        grid,
        x,
        w,
        out if residual is None else residual,
        out,
        workspace.partials,
        workspace.counters,
        num_tokens,
        n,
        k,
        prefetch_bytes(k // tile.split, tile.rows, programs),
        ROWS=tile.rows,
        TOKENS=tile.tokens,
        DEPTH=tile.depth,
        SLICES=tile.slices,
        SPLIT=tile.split,
        SILU=silu,
        RESIDUAL=residual is not None,
        LANES=max(tile.rows, 32 * tile.num_warps),
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        pdl=pdl,
    )


@triton.jit
def gemv_kernel(
    x_ptr,  # [T, K]
    w_ptr,  # [N, K]
    residual_ptr,  # [T, N]
    out_ptr,  # [T, N], or [T, N / 2] with SILU
    N,
    K: tl.constexpr,
    T: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    SILU: tl.constexpr,
    RESIDUAL: tl.constexpr,
    PDL: tl.constexpr,
):
    if PDL:
        gdc_launch_dependents()
    tile = tl.program_id(0)
    row = weight_rows(tl.arange(0, ROWS), tile, N, ROWS, SILU).to(tl.int64)
    column = tl.arange(0, BLOCK)
    weights = ()
    for block in tl.static_range(K // BLOCK):
        pointers = w_ptr + row[:, None] * K + block * BLOCK + column[None, :]
        weights = weights + (tl.load(pointers, eviction_policy="evict_first"),)  # noqa: RUF005
    if PDL:
        gdc_wait()
    for t in tl.static_range(T):
        total = tl.zeros([ROWS, BLOCK], tl.float32)
        for block in tl.static_range(K // BLOCK):
            # Two-dimensional on purpose: x then loads in the layout of the weights, not through shared memory.
            x = tl.load(x_ptr + t * K + block * BLOCK + (row * 0).to(tl.int32)[:, None] + column[None, :])
            total += weights[block].to(tl.float32) * x.to(tl.float32)
        y = tl.sum(total, axis=1)
        if SILU:
            gate, up = tl.split(tl.trans(tl.reshape(y, [2, ROWS // 2])))
            out_row = tile * (ROWS // 2) + tl.arange(0, ROWS // 2)
            tl.store(out_ptr + t * (N // 2) + out_row, silu_mul(gate, up).to(out_ptr.dtype.element_ty))
        else:
            out_row = tile * ROWS + tl.arange(0, ROWS)
            if RESIDUAL:
                y += tl.load(residual_ptr + t * N + out_row).to(tl.float32)
            tl.store(out_ptr + t * N + out_row, y.to(out_ptr.dtype.element_ty))


@triton.jit
def split_kernel(
    x_ptr,  # [T, K]
    w_ptr,  # [N, K]
    residual_ptr,  # [T, N]
    out_ptr,  # [T, N], or [T, N / 2] with SILU
    partial_ptr,  # [SPLIT, tiles, ROWS, TOKENS] float32
    counter_ptr,  # [tiles] int32 zeros
    T,
    N,
    K,
    ahead,  # bytes of each weight row to prefetch
    ROWS: tl.constexpr,
    TOKENS: tl.constexpr,
    DEPTH: tl.constexpr,
    SLICES: tl.constexpr,
    SPLIT: tl.constexpr,
    SILU: tl.constexpr,
    RESIDUAL: tl.constexpr,
    LANES: tl.constexpr,
    PDL: tl.constexpr,
):
    token_tile, row_tile, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length = K // SPLIT
    row = weight_rows(tl.arange(0, ROWS), row_tile, N, ROWS, SILU).to(tl.int64)
    if PDL:
        gdc_launch_dependents()
        lane = tl.arange(0, LANES)
        early = weight_rows(lane, row_tile, N, ROWS, SILU).to(tl.int64)
        prefetch_to_l2(w_ptr + early * K + part * length, tl.where(lane < ROWS, ahead, 0))
        gdc_wait()
    token = token_tile * TOKENS + tl.arange(0, TOKENS)
    x_columns = x_ptr + tl.minimum(token, T - 1) * K + part * length
    total = tile_product(w_ptr + row * K + part * length, x_columns, length, ROWS, TOKENS, DEPTH, SLICES)

    last = True
    if SPLIT > 1:
        tiles = tl.num_programs(0) * tl.num_programs(1)
        tile = row_tile * tl.num_programs(0) + token_tile
        cell = tl.arange(0, ROWS)[:, None] * TOKENS + tl.arange(0, TOKENS)[None, :]
        tl.store(partial_ptr + (part * tiles + tile) * (ROWS * TOKENS) + cell, total)
        tl.debug_barrier()  # every thread's partial sums before the arrival that announces them
        last = tl.atomic_add(counter_ptr + tile, 1, sem="acq_rel", scope="gpu") == SPLIT - 1
        if last:
            tl.store(counter_ptr + tile, 0)
            total = tl.zeros([ROWS, TOKENS], tl.float32)
            for other in tl.static_range(SPLIT):  # always in this order: the sum does not depend on who came last
                total += tl.load(partial_ptr + (other * tiles + tile) * (ROWS * TOKENS) + cell, cache_modifier=".cg")
    if last:
        if SILU:
            gate, up = tl.split(tl.permute(tl.reshape(total, [2, ROWS // 2, TOKENS]), [1, 2, 0]))
            out_row = row_tile * (ROWS // 2) + tl.arange(0, ROWS // 2)
            pointers = out_ptr + token[None, :] * (N // 2) + out_row[:, None]
            inside = (token < T)[None, :] & (out_row < N // 2)[:, None]
            tl.store(pointers, silu_mul(gate, up).to(out_ptr.dtype.element_ty), mask=inside)
        else:
            out_row = row_tile * ROWS + tl.arange(0, ROWS)
            inside = (token < T)[None, :] & (out_row < N)[:, None]
            offsets = token[None, :] * N + out_row[:, None]
            if RESIDUAL:
                total += tl.load(residual_ptr + offsets, mask=inside, other=0.0).to(tl.float32)
            tl.store(out_ptr + offsets, total.to(out_ptr.dtype.element_ty), mask=inside)
