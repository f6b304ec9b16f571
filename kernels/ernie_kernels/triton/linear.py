"""Dense linears of the decode step, y = x Wᵀ for up to 512 tokens; knows no layer. More tokens are left to the framework's matmul.

One pass over the weights is the floor. One token: a matrix-vector product whose programs hold all their weights in registers before
they wait for the kernel before. More tokens: weights are the left operand of `tl.dot` and tokens the columns, so that few tokens waste
no rows of the matrix unit. No sum is split between programs: an answer does not depend on which of them is first.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from .. import launch
from ..launch import Argument as Tensor
from .gemm_common import LONG_SUM, prefetch_to_l2, silu_mul, tile_product, weight_rows

MAX_TOKENS = 512


@dataclass(frozen=True)
class Tile:
    """One configuration of the kernel for more than one token."""

    rows: int  # weight rows per program (with gate and up: half of each)
    tokens: int  # columns
    depth: int  # elements of K per slice and step
    slices: int  # see gemm_common.tile_product
    num_warps: int
    num_stages: int


def linear(
    x: Tensor,  # [T, K] bfloat16
    w: Tensor,  # [N, K] bfloat16
    out: Tensor,  # [T, N] bfloat16 or float32 (lm_head)
    *,
    residual: Tensor | None = None,  # [T, N] bfloat16 or float32; may be `out` itself
    uniform: bool = False,
    pdl: bool = True,
) -> None:
    """out = x Wᵀ (+ residual), accumulated in float32. T ≤ 512, with `uniform` any; K a multiple of 64, N of 4.

    `uniform`: the order of a row's sum does not depend on T. All tiles without slices add K in the same order, so that their results are
    the same to the bit (seen on Hopper for mma.sync and wgmma alike); the matrix-vector product and the slices do not.
    """
    _launch(x, w, out, residual, silu=False, uniform=uniform, pdl=pdl)


def gate_up_silu(x: Tensor, w: Tensor, out: Tensor, *, uniform: bool = False, pdl: bool = True) -> None:
    """out = silu(x Gᵀ) · (x Uᵀ): x [T, K], w [2·I, K] with the rows of G first, out [T, I], all bfloat16. As `linear` otherwise."""
    _launch(x, w, out, None, silu=True, uniform=uniform, pdl=pdl)


def uniform_tile(num_tokens: int, n: int) -> Tile:
    """`tile_for` among the tiles without slices, for any number of tokens."""
    if num_tokens > MAX_TOKENS:
        return Tile(128, 256, 64, 1, 8, 3)
    if n < 16384 and num_tokens <= 64:
        return Tile(16, 16, 128, 1, 4, 4) if num_tokens <= 16 else Tile(64, 32 if n >= 3072 and num_tokens > 32 else 16, 128, 1, 4, 4)
    return tile_for(num_tokens, n)


def tile_for(num_tokens: int, n: int) -> Tile:
    """The choice for 2 to 512 tokens and n weight rows, by sweeps on an H200 (µs; "–": not a candidate there):

    | tokens | 3584 x 2560 | 2560 x 2560 | 1024 x 3072 | 103424 x 2560 |
    |---|---|---|---|---|
    | 8 | 7.0 | 7.2 | – | 125 |
    | 16 | 7.8 | 7.7 | 5.9 | 128 |
    | 64 | 9.5 | 8.7 | 7.2 | 144 |
    | 128 | 9.1 | – | – | 196 |
    | 256 | 11.6 | 12.4 | 9.0 | 294 |
    | 512 | 18.5 | – | – | – |
    """
    if n >= 16384:  # lm_head and wide layers: programs enough for large tiles
        if num_tokens <= 8:
            return Tile(64, 8, 256, 1, 4, 3)
        if num_tokens <= 16:
            return Tile(64, 16, 128, 1, 4, 4)
        if num_tokens <= 64:
            return Tile(128, 32 if num_tokens <= 32 else 64, 64, 1, 4, 4)
        return Tile(128, 128, 64, 1, 4, 4) if num_tokens <= 128 else Tile(128, 256, 64, 1, 8, 4)
    if num_tokens <= 8:
        return Tile(32, 8, 128, 4, 4, 4)
    if num_tokens <= 16 or (num_tokens <= 64 and n < 2048):
        return Tile(16, 16, 128, 4, 4, 4)
    if num_tokens <= 32:
        return Tile(16, 32, 128, 4, 4, 3)
    if num_tokens <= 64:
        return Tile(64, 32 if n >= 3072 else 16, 128, 1, 4, 4)
    if num_tokens <= 128 or n < 2048:
        return Tile(64, 64, 128, 1, 4, 4)
    return Tile(64, 128, 64, 1, 4, 5) if num_tokens <= 256 else Tile(128, 128, 64, 1, 8, 4)


def _launch(x: Tensor, w: Tensor, out: Tensor, residual: Tensor | None, *, silu: bool, uniform: bool, pdl: bool) -> None:
    num_tokens, k = x.shape
    n = w.shape[0]
    assert w.shape[1] == k and out.shape[1] * (1 + silu) == n and k % 64 == 0 and n % 4 == 0
    assert uniform or num_tokens <= MAX_TOKENS
    if num_tokens == 1 and not uniform:
        launch_gemv(x, w, out, residual, silu=silu, pdl=pdl)
    else:
        tile = uniform_tile(num_tokens, n) if uniform else tile_for(num_tokens, n)
        launch_tiles(x, w, out, residual, _fitting(tile, k), silu=silu, pdl=pdl)


def _is_long(k: int) -> bool:
    """Up to here one sum is exact to 1e-5 of the result."""
    return k > 2 * LONG_SUM.value


def _fitting(tile: Tile, k: int) -> Tile:
    """`tile`, or one of its size that steps through K in smaller steps."""
    if _is_long(k) and tile.rows * tile.tokens > 1024 * tile.num_warps:
        tile = replace(tile, tokens=1024 * tile.num_warps // tile.rows)  # two accumulators must fit into the registers
    if k % (tile.depth * tile.slices) == 0:
        return tile
    return replace(tile, depth=64, slices=1, num_stages=4)


def launch_gemv(x: Tensor, w: Tensor, out: Tensor, residual: Tensor | None, *, silu: bool, pdl: bool) -> None:
    """`linear` for one token. A thread holds ROWS · K / threads weights, 64 registers of them at most."""
    k, n, rows, num_warps = x.shape[1], w.shape[0], 4, 4
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
        ROWS=rows,
        BLOCK=min(k & -k, 4096),
        SILU=silu,
        RESIDUAL=residual is not None,
        num_warps=num_warps,
        pdl=pdl,
    )


def launch_tiles(x: Tensor, w: Tensor, out: Tensor, residual: Tensor | None, tile: Tile, *, silu: bool, pdl: bool) -> None:
    """`linear` for two tokens or more, in one given configuration."""
    num_tokens, k = x.shape
    n = w.shape[0]
    assert k % (tile.depth * tile.slices) == 0
    grid = (launch.cdiv(num_tokens, tile.tokens), launch.cdiv(n, tile.rows))
    launch.run(
        tile_kernel,
        grid,
        x,
        w,
        out if residual is None else residual,
        out,
        num_tokens,
        n,
        k,
        _prefetch_bytes(k, tile.rows, grid[0] * grid[1]),
        ROWS=tile.rows,
        TOKENS=tile.tokens,
        DEPTH=tile.depth,
        SLICES=tile.slices,
        LONG=_is_long(k),
        SILU=silu,
        RESIDUAL=residual is not None,
        LANES=max(tile.rows, 32 * tile.num_warps),
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        pdl=pdl,
    )


def _prefetch_bytes(k: int, rows: int, programs: int) -> int:
    """How much of each weight row a program of the first wave asks for before it may start: together at most 16 MB, since more would push
    out of L2 what is not yet used (lm_head of 21B on an H200, 16 tokens: 128 µs, without a limit 183)."""
    return min(k * 2, (16 << 20) // (rows * min(programs, 400)) // 128 * 128)


@triton.jit
def gemv_kernel(
    x_ptr,  # [1, K]
    w_ptr,  # [N, K]
    residual_ptr,  # [1, N]
    out_ptr,  # [1, N], or [1, N / 2] with SILU
    N,
    K: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    SILU: tl.constexpr,
    RESIDUAL: tl.constexpr,
    PDL: tl.constexpr,
):
    if PDL:
        gdc_launch_dependents()  # this early only in streams that fill the GPU; after the wait: o_proj of 21B 5.0 instead of 4.0 µs
    tile = tl.program_id(0)
    row = weight_rows(tl.arange(0, ROWS), tile, N, ROWS, SILU).to(tl.int64)
    column = tl.arange(0, BLOCK)
    weights = ()
    for block in tl.static_range(K // BLOCK):
        pointers = w_ptr + row[:, None] * K + block * BLOCK + column[None, :]
        weights = weights + (tl.load(pointers, eviction_policy="evict_first"),)  # type: ignore[assignment]  # noqa: RUF005
    if PDL:
        gdc_wait()
    x_pointers = x_ptr + (row * 0).to(tl.int32)[:, None] + column[None, :]  # in the layout of the weights, not through shared memory
    total = tl.zeros([ROWS, BLOCK], tl.float32)
    for block in tl.static_range(K // BLOCK):
        total += weights[block].to(tl.float32) * tl.load(x_pointers + block * BLOCK).to(tl.float32)
    y = tl.sum(total, axis=1)
    if SILU:
        gate, up = tl.split(tl.trans(tl.reshape(y, [2, ROWS // 2])))
        out_row = tile * (ROWS // 2) + tl.arange(0, ROWS // 2)
        tl.store(out_ptr + out_row, silu_mul(gate, up).to(out_ptr.dtype.element_ty))
    else:
        out_row = tile * ROWS + tl.arange(0, ROWS)
        if RESIDUAL:
            y += tl.load(residual_ptr + out_row).to(tl.float32)
        tl.store(out_ptr + out_row, y.to(out_ptr.dtype.element_ty))


@triton.jit(do_not_specialize=["T"])  # only compared with: a variant for multiples of 16 would be compiled for nothing, and amid serving
def tile_kernel(
    x_ptr,  # [T, K]
    w_ptr,  # [N, K]
    residual_ptr,  # [T, N]
    out_ptr,  # [T, N], or [T, N / 2] with SILU
    T,
    N,
    K,
    ahead,  # bytes of each weight row to prefetch
    ROWS: tl.constexpr,
    TOKENS: tl.constexpr,
    DEPTH: tl.constexpr,
    SLICES: tl.constexpr,
    LONG: tl.constexpr,
    SILU: tl.constexpr,
    RESIDUAL: tl.constexpr,
    LANES: tl.constexpr,
    PDL: tl.constexpr,
):
    token_tile, row_tile = tl.program_id(0), tl.program_id(1)  # neighbours share their weights
    if PDL:
        lane = tl.arange(0, LANES)
        early = weight_rows(lane, row_tile, N, ROWS, SILU).to(tl.int64)
        prefetch_to_l2(w_ptr + early * K, tl.where(lane < ROWS, ahead, 0))
        gdc_wait()
        gdc_launch_dependents()
    row = weight_rows(tl.arange(0, ROWS), row_tile, N, ROWS, SILU).to(tl.int64)
    token = token_tile * TOKENS + tl.arange(0, TOKENS)
    total = tile_product(w_ptr + row * K, x_ptr + tl.minimum(token, T - 1) * K, K, ROWS, TOKENS, DEPTH, SLICES, LONG)
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
