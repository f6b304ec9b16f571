"""Every launcher at sizes that are served, called with tensors that somebody else makes; knows neither compiler nor framework.

One line for a launcher and a shape: test_compile.py compiles its kernels for sm_80 and sm_90, test_fake_cuda.py launches them with Paddle
tensors. `make(dtype, *shape)` gives an uninitialised tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ernie_kernels.triton import (
    activation,
    attention_decode,
    attention_prefill,
    combine,
    linear,
    logprobs,
    moe_experts,
    moe_norm_router,
    moe_router,
    norm,
    norm_linear,
    rotary,
    sampling,
    token_counts,
    token_feed,
    vision_attention,
    vision_elementwise,
)
from ernie_kernels.triton.attention_decode import DecodePlan, DecodeWorkspace

Make = Callable[..., Any]


@dataclass(frozen=True)
class Case:
    launches: int  # kernels that one call starts
    call: Callable[[Make], None]


def _sample(t: Make, num_rows: int, *, truncated: bool, vocab_size: int = 103424) -> None:
    rows = sampling.SamplingRows(
        t("float32", num_rows, 6),
        t("int64", num_rows, 6),
        t("int32", num_rows + 1),
        t("int32", 64),
        t("float32", 64),
        t("int32", num_rows, -(-vocab_size // 32)),
    )
    shapes = sampling.workspace_shapes(num_rows, vocab_size)
    workspace = sampling.SamplingWorkspace(**{name: t(dtype, *shape) for name, (shape, dtype) in shapes.items()})
    logits, counts = t("float32", num_rows, vocab_size), t("int32", 4, vocab_size)
    sampling.sample(logits, rows, counts, workspace, t("int32", num_rows), truncated=truncated, pdl=True)


def _caches(t: Make, num_kv_heads: int) -> tuple[Any, Any]:
    return t("bfloat16", 512, 64, num_kv_heads, 128), t("bfloat16", 512, 64, num_kv_heads, 128)


def _rotary(t: Make, tokens: int, heads: int, kv: int) -> None:
    qkv, q = t("bfloat16", tokens, (heads + 2 * kv) * 128), t("bfloat16", tokens, heads, 128)
    rotary.rotary_kv_write(qkv, t("float32", 4096, 128), t("int32", tokens), t("int32", tokens), *_caches(t, kv), q)


def _decode(t: Make, requests: int, heads: int, kv: int, plan: DecodePlan, with_rotary: bool) -> None:
    partials, log_sums, arrivals = attention_decode.decode_workspace_shapes(requests, kv, plan.num_splits)
    workspace = DecodeWorkspace(t("float32", *partials), t("float32", *log_sums), t("int32", *arrivals))
    tables, out = (t("int32", requests, 17), t("int32", requests), 0.088), t("bfloat16", requests, heads * 128)
    if with_rotary:
        qkv = t("bfloat16", requests, (heads + 2 * kv) * 128)
        first = (qkv, t("float32", 4096, 128), t("int32", requests), *_caches(t, kv))
        attention_decode.rotary_decode_attention(*first, *tables, out, workspace, plan)
    else:
        attention_decode.decode_attention(t("bfloat16", requests, heads, 128), *_caches(t, kv), *tables, out, workspace, plan)


def _prefill(t: Make, tokens: int, heads: int, kv: int) -> None:
    q, out = t("bfloat16", tokens, heads, 128), t("bfloat16", tokens, heads * 128)
    arguments = (q, *_caches(t, kv), t("int32", 3, 17), t("int32", 4), t("int32", 3), 0.088, out)
    attention_prefill.prefill_attention(*arguments, max_query_len=tokens, num_requests=3)


def _top_logprobs(t: Make, num_rows: int, vocab_size: int = 103424) -> None:
    shapes = logprobs.workspace_shapes(num_rows, vocab_size)
    workspace = logprobs.LogprobsWorkspace(**{name: t(dtype, *shape) for name, (shape, dtype) in shapes.items()})
    integers, tokens = t("int64", num_rows, 6), t("int32", num_rows)
    values, ids = t("float32", num_rows, 21), t("int32", num_rows, 20)
    logprobs.top_logprobs(t("float32", num_rows, vocab_size), integers, tokens, workspace, values, ids, pdl=True)


def _linear(t: Make, tokens: int, n: int, k: int, dtype: str = "bfloat16") -> None:
    linear.linear(t("bfloat16", tokens, k), t("bfloat16", n, k), t(dtype, tokens, n))


def _uniform_linear(t: Make, tokens: int, n: int, k: int) -> None:
    linear.linear(t("bfloat16", tokens, k), t("bfloat16", n, k), t("bfloat16", tokens, n), uniform=True)


def _gate_up(t: Make, tokens: int, intermediate: int, k: int) -> None:
    linear.gate_up_silu(t("bfloat16", tokens, k), t("bfloat16", 2 * intermediate, k), t("bfloat16", tokens, intermediate))


def _norm_linear(t: Make, n: int, k: int, *, silu: bool) -> None:
    rows = (t("bfloat16", 1, k), t("bfloat16", 1, k), t("float32", k), 1e-5, t("bfloat16", n, k), t("bfloat16", 1, k))
    norm_linear.add_norm_linear(*rows, t("bfloat16", 1, n // 2 if silu else n), silu=silu)


def _router_workspace(t: Make, tokens: int) -> moe_router.Workspace:
    floats, ints = moe_router.workspace_sizes(tokens, 64, 2560)
    return moe_router.Workspace(t("float32", floats), t("int32", ints))


def _route(t: Make, tokens: int) -> None:
    gate, results = (t("float32", 64, 2560), t("float32", 64)), (t("float32", tokens, 6), t("int32", tokens, 6))
    moe_router.route(t("bfloat16", tokens, 2560), *gate, 6, 1e-12, *results, _router_workspace(t, tokens))


def _combine_norm_route(t: Make, tokens: int) -> None:
    parts, residual, norm_weight = t("bfloat16", tokens, 1, 2560), t("bfloat16", tokens, 2560), t("bfloat16", 2560)
    results = (t("bfloat16", tokens, 2560), t("float32", tokens, 6), t("int32", tokens, 6))
    gate = (t("float32", 64, 2560), t("float32", 64), 1e-12)
    moe_norm_router.combine_norm_route(parts, residual, norm_weight, 1e-5, *gate, *results, _router_workspace(t, tokens))


def _experts(t: Make, tokens: int) -> None:
    """A layer of 21B-A3B: 64 experts of 1536, 6 for each token, and 2 shared ones."""
    ids = t("int32", tokens, 6)
    plan = None
    if (tile := moe_experts.plan_tile(tokens, 64, 6)) is not None:
        most = moe_router.max_tiles(tokens, 6, 64, tile)
        plan = moe_router.ExpertPlan(tile, t("int32", most * tile), t("int32", most), t("int32", 1))
        moe_router.sort_by_expert(ids, 64, 2, plan)
    routing = moe_experts.Routing(ids, plan, 2)
    act, parts = t("bfloat16", tokens * 8, 1536), t("bfloat16", tokens, 8, 2560)
    moe_experts.experts_gate_up(t("bfloat16", tokens, 2560), t("bfloat16", 66, 3072, 2560), routing, act)
    moe_experts.experts_down(act, t("bfloat16", 66, 2560, 1536), routing, parts)


def _combine(t: Make, tokens: int) -> None:
    parts, weights = t("bfloat16", tokens, 8, 2560), t("float32", tokens, 6)
    residual, norm_weight, out = t("bfloat16", tokens, 2560), t("bfloat16", 2560), t("bfloat16", tokens, 2560)
    combine.combine_add_rms_norm(parts, weights, residual, norm_weight, 1e-5, out)


def _combine_rows(t: Make, tokens: int) -> None:
    parts, weights = t("bfloat16", tokens, 12, 2560), t("float32", tokens, 6)
    combine.combine_rows(parts, weights, t("int32", tokens), t("float32", 2 * tokens, 2560))


def _vision_attention(t: Make, frames: int, patches: int, head_dim: int) -> None:
    qkv, out = t("bfloat16", frames * patches, 3 * 16 * head_dim), t("bfloat16", frames * patches, 16 * head_dim)
    vision_attention.vision_attention(qkv, t("float32", patches, head_dim), head_dim**-0.5, out)


def _add_bias(t: Make, width: int, kind: str, add: bool) -> None:
    x = t("bfloat16", 5476, width)
    vision_elementwise.add_bias(x, t("float32", width), t("bfloat16", 5476, width) if add else None, kind)


def _layer_norm(t: Make, tokens: int, hidden: int) -> None:
    vision_elementwise.layer_norm(t("bfloat16", tokens, hidden), *(t("float32", hidden),) * 2, 1e-6, t("bfloat16", tokens, hidden))


def _normalize_pixels(t: Make, patches: int, width: int) -> None:
    vision_elementwise.normalize_pixels(t("uint8", patches, width), *(t("float32", width),) * 2, t("bfloat16", patches, width))


def _rope_rows(t: Make, tokens: int) -> None:
    rotary.rope_rows(t("float32", 4096, 128), t("int32", 3, tokens), t("int32", 64), t("float32", tokens, 128))


CASES: dict[str, Case] = {
    "rms_norm 0.3B": Case(1, lambda t: norm.rms_norm(t("bfloat16", 7, 1024), t("bfloat16", 1024), 1e-5, t("bfloat16", 7, 1024))),
    "add_rms_norm 21B": Case(
        1,
        lambda t: norm.add_rms_norm(t("bfloat16", 256, 2560), t("float32", 256, 2560), t("float32", 2560), 1e-5, t("bfloat16", 256, 2560)),
    ),
    "rotary_kv_write 0.3B": Case(1, lambda t: _rotary(t, 7, 16, 2)),
    "rotary_kv_write 21B": Case(1, lambda t: _rotary(t, 333, 20, 4)),
    "decode_attention 21B": Case(1, lambda t: _decode(t, 16, 20, 4, DecodePlan(8, 128), with_rotary=False)),
    "rotary_decode_attention 0.3B": Case(1, lambda t: _decode(t, 1, 16, 2, DecodePlan(64, 128, 1), with_rotary=True)),
    "rotary_decode_attention 21B": Case(1, lambda t: _decode(t, 256, 20, 4, DecodePlan(2, 64), with_rotary=True)),
    "prefill_attention 0.3B": Case(1, lambda t: _prefill(t, 65, 16, 2)),
    "prefill_attention 21B": Case(1, lambda t: _prefill(t, 1000, 20, 4)),
    "embedding 21B": Case(1, lambda t: norm.embedding(t("int32", 33), t("bfloat16", 103424, 2560), t("bfloat16", 33, 2560))),
    "sample 1": Case(5, lambda t: _sample(t, 1, truncated=True)),
    "sample 256 plain": Case(2, lambda t: _sample(t, 256, truncated=False)),
    "top_logprobs 7": Case(2, lambda t: _top_logprobs(t, 7)),
    "set_token_counts": Case(2, lambda t: token_counts.set_token_counts(t("int32", 4, 103424), 3, t("int32", 5000), 4000, 4321)),
    **{f"linear {tokens} 21B": Case(1, lambda t, tokens=tokens: _linear(t, tokens, 3584, 2560)) for tokens in (1, 8, 16, 100, 256)},
    **{
        f"lm_head {tokens} 21B": Case(1, lambda t, tokens=tokens: _linear(t, tokens, 103424, 2560, "float32")) for tokens in (1, 8, 64, 256)
    },
    **{f"linear {tokens} 0.3B": Case(1, lambda t, tokens=tokens: _linear(t, tokens, 1024, 3072)) for tokens in (1, 64)},
    **{f"gate_up_silu {tokens} 0.3B": Case(1, lambda t, tokens=tokens: _gate_up(t, tokens, 3072, 1024)) for tokens in (1, 8, 64, 256)},
    "gate_up_silu 64 21B": Case(1, lambda t: _gate_up(t, 64, 12288, 2560)),
    "add_norm_linear qkv 0.3B": Case(1, lambda t: _norm_linear(t, 2560, 1024, silu=False)),
    "add_norm_linear gate_up 0.3B": Case(1, lambda t: _norm_linear(t, 6144, 1024, silu=True)),
    "linear 64 of a long sum": Case(1, lambda t: _linear(t, 64, 2560, 12288)),
    "linear 300 of a long sum": Case(1, lambda t: _linear(t, 300, 2560, 12288)),
    "linear 2000 uniform": Case(1, lambda t: _uniform_linear(t, 2000, 3584, 2560)),
    "linear 2000 uniform, of a long sum": Case(1, lambda t: _uniform_linear(t, 2000, 2560, 12288)),
    **{f"route {tokens}": Case(1, lambda t, tokens=tokens: _route(t, tokens)) for tokens in (1, 256, 4096)},
    "combine_norm_route 1": Case(1, lambda t: _combine_norm_route(t, 1)),
    **{f"experts {tokens} unsorted": Case(2, lambda t, tokens=tokens: _experts(t, tokens)) for tokens in (1, 5)},
    **{f"experts {tokens}": Case(3, lambda t, tokens=tokens: _experts(t, tokens)) for tokens in (16, 256, 512, 1024)},
    "combine_add_rms_norm": Case(1, lambda t: _combine(t, 64)),
    "swiglu": Case(1, lambda t: activation.swiglu(t("bfloat16", 700, 6144), t("bfloat16", 700, 3072))),
    "vision_attention VL": Case(2, lambda t: _vision_attention(t, 1, 5476, 80)),
    "vision_attention VL video": Case(2, lambda t: _vision_attention(t, 16, 1564, 80)),
    "vision_attention OCR": Case(2, lambda t: _vision_attention(t, 1, 7200, 72)),
    "add_bias quick_gelu VL": Case(1, lambda t: _add_bias(t, 5120, "quick_gelu", False)),
    "add_bias gelu OCR": Case(1, lambda t: _add_bias(t, 4304, "gelu_pytorch_tanh", False)),
    "add_bias gelu resampler": Case(1, lambda t: _add_bias(t, 5120, "gelu", False)),
    "add_bias residual VL": Case(1, lambda t: _add_bias(t, 1280, "", True)),
    "layer_norm VL": Case(1, lambda t: _layer_norm(t, 5476, 1280)),
    "layer_norm resampler": Case(1, lambda t: _layer_norm(t, 1369, 5120)),
    "normalize_pixels": Case(1, lambda t: _normalize_pixels(t, 5476, 588)),
    "rope_rows": Case(1, lambda t: _rope_rows(t, 1500)),
    "combine_rows VL": Case(1, lambda t: _combine_rows(t, 1369)),
    "feed_tokens": Case(1, lambda t: token_feed.feed_tokens(t("int32", 64), t("int32", 64), t("int32", 64))),
}
