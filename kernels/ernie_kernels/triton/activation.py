"""SwiGLU of a fused gate and up projection, on the GPU, for steps too long for the fused linears; knows no layer."""

from __future__ import annotations

import triton
import triton.language as tl

from .. import launch
from ..launch import Argument as Tensor
from .gemm_common import silu_mul

_BLOCK = 1024


def swiglu(gate_up: Tensor, out: Tensor) -> None:
    """out = silu(g) · u with g‖u = gate_up, in float32, rounded once. gate_up [T, 2·I], out [T, I]."""
    num_tokens, width = out.shape
    assert tuple(gate_up.shape) == (num_tokens, 2 * width)
    launch.run(_swiglu_kernel, (num_tokens, launch.cdiv(width, _BLOCK)), gate_up, out, width, BLOCK=_BLOCK)


@triton.jit
def _swiglu_kernel(gate_up_ptr, out_ptr, width, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    gate = tl.load(gate_up_ptr + token * 2 * width + columns, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up_ptr + token * 2 * width + width + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + token * width + columns, silu_mul(gate, up).to(out_ptr.dtype.element_ty), mask=inside)
