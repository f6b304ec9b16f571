"""Every launcher at sizes that are served, called with tensors that somebody else makes; knows neither compiler nor framework.

One line for a launcher and a shape: test_compile.py compiles its kernels for sm_80 and sm_90, test_fake_cuda.py launches them with Paddle
tensors. `make(dtype, *shape)` gives an uninitialised tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ernie_kernels.triton import attention_decode, attention_prefill, logprobs, norm, rotary, sampling, token_counts
from ernie_kernels.triton.attention_decode import DecodePlan, DecodeWorkspace

Make = Callable[..., Any]


@dataclass(frozen=True)
class Case:
    launches: int  # kernels that one call starts
    call: Callable[[Make], None]


def _sample(t: Make, num_rows: int, *, truncated: bool, vocab_size: int = 103424) -> None:
    rows = sampling.SamplingRows(
        t("float32", num_rows, 6), t("int64", num_rows, 5), t("int32", num_rows + 1), t("int32", 64), t("float32", 64)
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
    integers, tokens = t("int64", num_rows, 5), t("int32", num_rows)
    values, ids = t("float32", num_rows, 21), t("int32", num_rows, 20)
    logprobs.top_logprobs(t("float32", num_rows, vocab_size), integers, tokens, workspace, values, ids, pdl=True)


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
}
