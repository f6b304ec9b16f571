"""Binds every name of `ops` to the Triton-language kernels: allocates outputs, keeps scratch memory, chooses between short and long steps.

Activations, weights and caches are bfloat16. Up to 512 tokens everything is a kernel of ours, so that a step can be captured as a CUDA
graph (outputs then come from the graph's memory pool); longer steps leave the dense products to the framework.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from . import launch, xp
from .metadata import AttentionMetadata
from .triton import activation, attention_decode, attention_prefill, combine, moe_norm_router, moe_router, norm, norm_linear, rotary
from .triton import linear as linear_kernels
from .triton import moe_experts as experts_kernels
from .triton.attention_decode import DecodePlan, DecodeWorkspace
from .triton.linear import MAX_TOKENS
from .triton.moe_router import Workspace
from .weights import BFLOAT16_BITS, EmbeddingWeight, ExpertWeights, LinearWeight, check_weight
from .xp import Tensor

DTYPE = "bfloat16"
CACHE_DTYPE = DTYPE

if xp.name != "torch":  # torch is what the Triton language knows by itself
    launch.use_device(xp)


@dataclass(frozen=True)
class WeightedParts:
    """What the experts answered, not yet summed: y[t] = Σⱼ weights[t, j] · parts[t, j] + Σ of the parts behind the k weighted ones."""

    parts: Tensor  # [T, k + n, H]
    weights: Tensor  # [T, k] float32


_uniform = False
"""Whether the order of every sum must be the same however many tokens a step has."""


def set_batch_invariant(wanted: bool) -> None:
    global _uniform
    _uniform = wanted


def warm_up(num_threads: int | None) -> None:
    """Nothing: a kernel is compiled when a shape first needs it."""


# weights -------------------------------------------------------------------------------------------------------------------------


def _upload(array: np.ndarray, ndim: int) -> Tensor:
    array = check_weight(array, ndim)
    return xp.from_bfloat16_bits(array) if array.dtype == BFLOAT16_BITS else xp.cast(xp.from_numpy(array), DTYPE)


def pack_linear(weight: np.ndarray) -> LinearWeight:
    return LinearWeight(_upload(weight, 2))


def pack_embedding(weight: np.ndarray) -> EmbeddingWeight:
    return EmbeddingWeight(_upload(weight, 2))


def pack_experts(gate_up: np.ndarray, down: np.ndarray) -> ExpertWeights:
    return ExpertWeights(_upload(gate_up, 3), _upload(down, 3))


def join_shared_experts(experts: ExpertWeights, gate_up: LinearWeight, down: LinearWeight) -> ExpertWeights:
    """A shared SwiGLU of width n · I is the sum of n of width I: they become the last n experts."""
    _, doubled, hidden = experts.gate_up.shape
    width = doubled // 2
    count = gate_up.out_features // doubled
    gates_and_ups = xp.reshape(gate_up.array, [2, count, width, hidden])
    shared_gate_up = xp.reshape(xp.concat([gates_and_ups[0], gates_and_ups[1]], axis=1), [count, doubled, hidden])
    shared_down = xp.contiguous(xp.transpose(xp.reshape(down.array, [hidden, count, width]), [1, 0, 2]))
    return ExpertWeights(
        xp.concat([experts.gate_up, shared_gate_up], axis=0), xp.concat([experts.down, shared_down], axis=0), num_shared=count
    )


# dense ---------------------------------------------------------------------------------------------------------------------------


def linear(x: Tensor, w: LinearWeight) -> Tensor:
    if x.shape[0] > MAX_TOKENS and not _uniform:
        return xp.matmul_transposed(x, w.array)
    out = xp.empty([x.shape[0], w.out_features], DTYPE)
    linear_kernels.linear(x, w.array, out, uniform=_uniform)
    return out


def lm_head(x: Tensor, w: LinearWeight, out: Tensor | None = None) -> Tensor:
    num_rows = x.shape[0]
    out = xp.empty([num_rows, w.out_features], "float32") if out is None else out
    for start in range(0, num_rows, MAX_TOKENS):
        rows = slice(start, start + MAX_TOKENS)
        linear_kernels.linear(x[rows], w.array, out[rows], uniform=_uniform)
    return out


def linear_swiglu(x: Tensor, gate_up: LinearWeight) -> Tensor:
    num_tokens = x.shape[0]
    if num_tokens > MAX_TOKENS and not _uniform:
        return swiglu(xp.matmul_transposed(x, gate_up.array))
    out = xp.empty([num_tokens, gate_up.out_features // 2], DTYPE)
    linear_kernels.gate_up_silu(x, gate_up.array, out, uniform=_uniform)
    return out


def swiglu(gate_up: Tensor) -> Tensor:
    out = xp.empty([gate_up.shape[0], gate_up.shape[1] // 2], DTYPE)
    activation.swiglu(gate_up, out)
    return out


def embedding(ids: Tensor, w: EmbeddingWeight) -> Tensor:
    out = xp.empty([ids.shape[0], w.array.shape[1]], DTYPE)
    norm.embedding(ids, w.array, out)
    return out


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    out = xp.empty(x.shape, DTYPE)
    norm.rms_norm(x, weight, eps, out)
    return out


def add_rms_norm(x: Tensor | WeightedParts, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    out = xp.empty(residual.shape, DTYPE)
    if isinstance(x, WeightedParts):
        combine.combine_add_rms_norm(x.parts, x.weights, residual, weight, eps, out, uniform=_uniform)
    else:
        norm.add_rms_norm(x, residual, weight, eps, out)
    return out, residual


def add_rms_norm_linear(
    x: Tensor | WeightedParts, residual: Tensor, norm_weight: Tensor, eps: float, w: LinearWeight, *, swiglu: bool = False
) -> tuple[Tensor, Tensor]:
    num_tokens, hidden = residual.shape
    if isinstance(x, WeightedParts) or num_tokens > 1 or hidden > norm_linear.MAX_HIDDEN or _uniform:
        normed, total = add_rms_norm(x, residual, norm_weight, eps)
        return (linear_swiglu if swiglu else linear)(normed, w), total
    out = xp.empty([1, w.out_features // (1 + swiglu)], DTYPE)
    total = xp.empty([1, hidden], DTYPE)
    norm_linear.add_norm_linear(x, residual, norm_weight, eps, w.array, total, out, silu=swiglu)
    return out, total


# attention -----------------------------------------------------------------------------------------------------------------------


def rotary_kv_write(qkv: Tensor, cos_sin: Tensor, positions: Tensor, slot_mapping: Tensor, k_cache: Tensor, v_cache: Tensor) -> Tensor:
    q = xp.empty([qkv.shape[0], _num_heads(qkv, k_cache), k_cache.shape[3]], DTYPE)
    rotary.rotary_kv_write(qkv, cos_sin, positions, slot_mapping, k_cache, v_cache, q)
    return q


def paged_attention(q: Tensor, k_cache: Tensor, v_cache: Tensor, metadata: AttentionMetadata, scale: float) -> Tensor:
    num_tokens, num_heads, head_dim = q.shape
    out = xp.empty([num_tokens, num_heads * head_dim], DTYPE)
    if metadata.max_query_len == 1 and not _uniform:
        plan, workspace = _decode_plan(num_tokens, k_cache, metadata)
        at = (q, k_cache, v_cache, metadata.block_tables, metadata.context_lens)
        attention_decode.decode_attention(*at, scale, out, workspace, plan)
    else:
        every = (slice(0, metadata.context_lens.shape[0]), metadata.cu_seqlens_q)
        _prefill(q, k_cache, v_cache, metadata, *every, metadata.max_query_len, scale, out)
    return out


def attention(
    qkv: Tensor,
    cos_sin: Tensor,
    positions: Tensor,
    slot_mapping: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    metadata: AttentionMetadata,
    scale: float,
) -> Tensor:
    """One kernel for the requests with one query token, where they stand in front (slot_mapping is then not read: the slot is the last of
    the context); the others rotate and write first, and pay for no empty programs of the many short ones."""
    out = xp.empty([qkv.shape[0], _num_heads(qkv, k_cache) * k_cache.shape[3]], DTYPE)
    singles = qkv.shape[0] if metadata.max_query_len == 1 else metadata.num_single
    if singles and not _uniform:
        plan, workspace = _decode_plan(singles, k_cache, metadata)
        rows = (qkv[:singles], cos_sin, positions[:singles], k_cache, v_cache, metadata.block_tables, metadata.context_lens)
        attention_decode.rotary_decode_attention(*rows, scale, out[:singles], workspace, plan)
        if singles == qkv.shape[0]:
            return out
        qkv, positions, slot_mapping = qkv[singles:], positions[singles:], slot_mapping[singles:]
    q = rotary_kv_write(qkv, cos_sin, positions, slot_mapping, k_cache, v_cache)
    if singles and _uniform:  # the same kernel for all, launched for the short ones apart
        _prefill(q[:singles], k_cache, v_cache, metadata, slice(0, singles), metadata.cu_seqlens_q, 1, scale, out[:singles])
        q = q[singles:]
    if metadata.rest_cu_seqlens_q is not None:
        rest = (slice(singles, metadata.context_lens.shape[0]), metadata.rest_cu_seqlens_q)
        _prefill(q, k_cache, v_cache, metadata, *rest, metadata.max_query_len, scale, out[singles:])
    elif q.shape[0]:
        every = (slice(0, metadata.context_lens.shape[0]), metadata.cu_seqlens_q)
        _prefill(q, k_cache, v_cache, metadata, *every, metadata.max_query_len, scale, out)
    return out


def _prefill(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    metadata: AttentionMetadata,
    requests: slice,
    cu_seqlens_q: Tensor,
    max_query_len: int,
    scale: float,
    out: Tensor,
) -> None:
    of_requests = (metadata.block_tables[requests], cu_seqlens_q, metadata.context_lens[requests])
    bounds = {"max_query_len": max_query_len, "num_requests": requests.stop - requests.start}
    attention_prefill.prefill_attention(q, k_cache, v_cache, *of_requests, scale, out, **bounds)


def _num_heads(qkv: Tensor, k_cache: Tensor) -> int:
    return qkv.shape[1] // k_cache.shape[3] - 2 * k_cache.shape[2]


# experts -------------------------------------------------------------------------------------------------------------------------


def route(x: Tensor, gate: Tensor, bias: Tensor | None, k: int, norm_min: float) -> tuple[Tensor, Tensor]:
    num_tokens = x.shape[0]
    num_experts, hidden = gate.shape
    weights, expert_ids = xp.empty([num_tokens, k], "float32"), xp.empty([num_tokens, k], "int32")
    workspace = _workspace(*_route_sizes(num_tokens, num_experts, hidden, _uniform))
    router = (gate, _no_bias(num_experts) if bias is None else bias, k, norm_min)
    moe_router.route(x, *router, weights, expert_ids, workspace, uniform=_uniform)
    return weights, expert_ids


def add_rms_norm_route(
    x: Tensor,
    residual: Tensor,
    norm_weight: Tensor,
    eps: float,
    gate: Tensor,
    bias: Tensor | None,
    k: int,
    norm_min: float,
    experts: ExpertWeights,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    num_tokens, hidden = x.shape
    if num_tokens > moe_norm_router.MAX_TOKENS or hidden % moe_norm_router.BLOCK or _uniform:
        normed, residual = add_rms_norm(x, residual, norm_weight, eps)
        return normed, residual, *route(normed, gate, bias, k, norm_min)
    num_experts = gate.shape[0]
    ahead = experts.gate_up[experts.num_experts - experts.num_shared :] if experts.num_shared else None
    out, weights, expert_ids = xp.empty(x.shape, DTYPE), xp.empty([num_tokens, k], "float32"), xp.empty([num_tokens, k], "int32")
    workspace = _workspace(*_route_sizes(num_tokens, num_experts, hidden, _uniform))
    router = (gate, _no_bias(num_experts) if bias is None else bias, norm_min)
    parts = xp.reshape(x, [num_tokens, 1, hidden])
    moe_norm_router.combine_norm_route(parts, residual, norm_weight, eps, *router, out, weights, expert_ids, workspace, ahead=ahead)
    return out, residual, weights, expert_ids


def moe_experts(x: Tensor, weights: Tensor, expert_ids: Tensor, experts: ExpertWeights) -> WeightedParts:
    num_tokens, k = expert_ids.shape
    num_experts = experts.num_experts - experts.num_shared
    hidden, width = experts.down.shape[1:]
    tile = experts_kernels.plan_tile(num_tokens, num_experts, k)
    plan = None
    if tile is not None:
        most = moe_router.max_tiles(num_tokens, k, num_experts, tile)
        plan = moe_router.ExpertPlan(tile, *(xp.empty([length], "int32") for length in (most * tile, most, 1)))
        moe_router.sort_by_expert(expert_ids, num_experts, experts.num_shared, plan)
    routing = experts_kernels.Routing(expert_ids, plan, experts.num_shared)
    act = xp.empty([num_tokens * routing.slots_per_token, width], DTYPE)
    experts_kernels.experts_gate_up(x, experts.gate_up, routing, act, uniform=_uniform)
    parts = xp.empty([num_tokens, routing.slots_per_token, hidden], DTYPE)
    experts_kernels.experts_down(act, experts.down, routing, parts, uniform=_uniform)
    return WeightedParts(parts, weights)


# scratch memory: taken once per size, outside of any graph, and never given back, since graphs hold its address ------------------------

_workspaces: list[Workspace] = []


def _workspace(floats: int, ints: int) -> Workspace:
    """The first one that is large enough; kernels follow each other on one stream, so that all may share it."""
    for workspace in _workspaces:
        if workspace.partials.shape[0] >= floats and workspace.counters.shape[0] >= ints:
            return workspace
    _workspaces.append(Workspace(xp.empty([_round_up(floats)], "float32"), xp.zeros([_round_up(ints)], "int32")))
    return _workspaces[-1]


def _round_up(length: int) -> int:
    return max(2**16, 1 << (length - 1).bit_length())


@cache
def _route_sizes(num_tokens: int, num_experts: int, hidden: int, uniform: bool) -> tuple[int, int]:
    return moe_router.workspace_sizes(num_tokens, num_experts, hidden, uniform=uniform)


@cache
def _no_bias(num_experts: int) -> Tensor:
    return xp.zeros([num_experts], "float32")


@cache
def _decode_workspace(rows: int, head_dim: int) -> DecodeWorkspace:
    """For `rows` = requests · key heads · splits."""
    shapes = attention_decode.decode_workspace_shapes(rows, 1, 1, head_dim)
    scratch = {name: xp.empty(shape, "float32") for name, shape in shapes._asdict().items() if name != "arrivals"}
    return DecodeWorkspace(**scratch, arrivals=xp.zeros(shapes.arrivals, "int32"))


def _decode_plan(num_requests: int, k_cache: Tensor, metadata: AttentionMetadata) -> tuple[DecodePlan, DecodeWorkspace]:
    _, _, num_kv_heads, head_dim = k_cache.shape
    plan = attention_decode.plan_decode(num_requests, num_kv_heads, metadata.max_context_len)
    rows = 1 << (num_requests * num_kv_heads * plan.num_splits - 1).bit_length()
    return plan, _decode_workspace(rows, head_dim)
