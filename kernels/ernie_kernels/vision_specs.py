"""The `OpSpec`s of what models that see need besides the text operators; knows no test and no timer."""

from __future__ import annotations

import numpy as np

from . import ops, xp
from .op_spec import Inputs, OpSpec, element_size, int32, normal, weight_array
from .reference import linear, moe, norm, rotary, vision
from .reference.rotary import rope_table
from .weights import ExpertWeights, LinearWeight, RoutedExperts


def make_linear_bias(rng: np.random.Generator, tokens: int, depth: int, width: int, dtype: str, add: bool) -> Inputs:
    inputs = {"x": normal(rng, tokens, depth), "w": LinearWeight(weight_array(rng, dtype, width, depth)), "bias": normal(rng, width)}
    return {**inputs, "residual": normal(rng, tokens, width) if add else None}


def work_linear_bias(tokens: int, depth: int, width: int, dtype: str, add: bool) -> tuple[int, int]:
    return width * depth * element_size(dtype) + 4 * tokens * (depth + width * (2 if add else 1)), 2 * tokens * width * depth


def make_linear_gelu(rng: np.random.Generator, tokens: int, depth: int, width: int, dtype: str, kind: str) -> Inputs:
    x, bias = normal(rng, tokens, depth) * 3.0, normal(rng, width)
    return {"x": x, "w": LinearWeight(weight_array(rng, dtype, width, depth)), "bias": bias, "kind": kind}


def make_layer_norm(rng: np.random.Generator, tokens: int, hidden: int) -> Inputs:
    return {"x": normal(rng, tokens, hidden) + 2.0, "weight": normal(rng, hidden), "bias": normal(rng, hidden), "eps": 1e-6}


def make_normalize_pixels(rng: np.random.Generator, patches: int, width: int) -> Inputs:
    return {
        "pixels": xp.from_numpy(rng.integers(0, 256, (patches, width), np.uint8)),
        "mean": normal(rng, width),
        "std": normal(rng, width) * 0.1 + 1.0,
    }


def make_rope_rows(rng: np.random.Generator, tokens: int, axes: tuple[int, ...]) -> Inputs:
    return {
        "cos_sin": rope_table(2 * len(axes), 500000.0, 4096),
        "positions": int32(rng.integers(0, 4096, (3, tokens))),
        "axes": axes,
    }


def make_vision_attention(rng: np.random.Generator, frames: int, rows: int, columns: int, heads: int, head_dim: int) -> Inputs:
    place = np.arange(rows * columns)
    return {
        "qkv": normal(rng, frames * rows * columns, 3 * heads * head_dim),
        "cos_sin": vision.axial_rope_table(head_dim, 10000.0, place // columns, place % columns),
        "num_heads": heads,
        "scale": float(head_dim**-0.5),
    }


def work_vision_attention(frames: int, rows: int, columns: int, heads: int, head_dim: int) -> tuple[int, int]:
    patches = rows * columns
    return 16 * frames * patches * heads * head_dim, 4 * frames * patches**2 * heads * head_dim


def make_moe_by_modality(
    rng: np.random.Generator, tokens: int, visual: int, hidden: int, intermediate: tuple[int, int], experts: int, k: int, dtype: str
) -> Inputs:
    order = rng.permutation(tokens)
    routed = tuple(
        RoutedExperts(
            normal(rng, experts, hidden) * float(hidden**-0.5),
            normal(rng, experts) * 0.05,
            ExpertWeights(weight_array(rng, dtype, experts, 2 * width, hidden), weight_array(rng, dtype, experts, hidden, width)),
        )
        for width in intermediate
    )
    rows = (int32(np.sort(order[visual:])), int32(np.sort(order[:visual])))
    return {"x": normal(rng, tokens, hidden), "rows": rows, "routed": routed, "k": k, "norm_min": 1e-12}


def work_moe_by_modality(
    tokens: int, visual: int, hidden: int, intermediate: tuple[int, int], experts: int, k: int, dtype: str
) -> tuple[int, int]:
    num_bytes = num_operations = 0
    for count, width in zip((tokens - visual, visual), intermediate, strict=True):
        met = experts * (1 - (1 - k / experts) ** count)
        num_bytes += int(met * 3 * width * hidden * element_size(dtype))
        num_operations += 6 * count * k * width * hidden
    return num_bytes, num_operations


_VL_AXES = (1, 2) * 22 + (0,) * 20
_OCR_AXES = (0,) * 16 + (1,) * 24 + (2,) * 24
_IMAGE_1024 = 74 * 74
"""Patches of a picture of 1036 × 1036."""

VISION_SPECS: tuple[OpSpec, ...] = (
    OpSpec(
        name="normalize_pixels",
        reference=vision.normalize_pixels,
        op=ops.normalize_pixels,
        make=make_normalize_pixels,
        test_sizes=({"patches": 1, "width": 1}, {"patches": 9, "width": 588}),
        bench_sizes=({"patches": _IMAGE_1024, "width": 588},),
        work=lambda patches, width: (5 * patches * width, 3 * patches * width),
    ),
    OpSpec(
        name="linear_bias",
        reference=linear.linear_bias,
        op=ops.linear_bias,
        make=make_linear_bias,
        test_sizes=tuple(
            {"tokens": tokens, "depth": depth, "width": width, "dtype": dtype, "add": add}
            for tokens, depth, width, add in ((1, 16, 4, False), (3, 37, 5, True), (67, 130, 19, True))
            for dtype in ("float32", "bfloat16")
        ),
        bench_sizes=tuple(
            {"tokens": _IMAGE_1024, "depth": depth, "width": width, "dtype": "bfloat16", "add": add}
            for depth, width, add in ((1280, 3840, False), (1280, 1280, True), (5120, 1280, True))
        ),
        work=work_linear_bias,
    ),
    OpSpec(
        name="linear_gelu",
        reference=linear.linear_gelu,
        op=ops.linear_gelu,
        make=make_linear_gelu,
        test_sizes=tuple(
            {"tokens": tokens, "depth": depth, "width": width, "dtype": "float32", "kind": kind}
            for tokens, depth, width in ((1, 1, 1), (3, 37, 5), (70, 16, 128))
            for kind in ("gelu", "gelu_pytorch_tanh", "quick_gelu")
        ),
        bench_sizes=(
            {"tokens": _IMAGE_1024, "depth": 1280, "width": 5120, "dtype": "bfloat16", "kind": "quick_gelu"},
            {"tokens": _IMAGE_1024, "depth": 1152, "width": 4304, "dtype": "bfloat16", "kind": "gelu_pytorch_tanh"},
        ),
        work=lambda kind, **sizes: work_linear_bias(**sizes, add=False),
    ),
    OpSpec(
        name="layer_norm",
        reference=norm.layer_norm,
        op=ops.layer_norm,
        make=make_layer_norm,
        test_sizes=({"tokens": 1, "hidden": 2}, {"tokens": 3, "hidden": 37}, {"tokens": 70, "hidden": 128}),
        bench_sizes=({"tokens": _IMAGE_1024, "hidden": 1280},),
        work=lambda tokens, hidden: (8 * tokens * hidden, 8 * tokens * hidden),
    ),
    OpSpec(
        name="rope_rows",
        reference=rotary.rope_rows,
        op=ops.rope_rows,
        make=make_rope_rows,
        test_sizes=({"tokens": 1, "axes": (1,)}, {"tokens": 9, "axes": (1, 2, 1, 2, 0, 0)}, {"tokens": 40, "axes": _VL_AXES}),
        bench_sizes=tuple({"tokens": 2048, "axes": axes} for axes in (_VL_AXES, _OCR_AXES)),
        work=lambda tokens, axes: (16 * tokens * len(axes) + 12 * tokens, 0),
        tolerance=2e-7,  # what is copied was rounded to float32
    ),
    OpSpec(
        name="vision_attention",
        reference=vision.vision_attention,
        op=ops.vision_attention,
        make=make_vision_attention,
        test_sizes=(
            {"frames": 1, "rows": 1, "columns": 1, "heads": 1, "head_dim": 4},
            {"frames": 3, "rows": 2, "columns": 5, "heads": 2, "head_dim": 12},
            {"frames": 1, "rows": 9, "columns": 31, "heads": 2, "head_dim": 80},
            {"frames": 2, "rows": 14, "columns": 10, "heads": 3, "head_dim": 72},
        ),
        bench_sizes=(
            {"frames": 1, "rows": 74, "columns": 74, "heads": 16, "head_dim": 80},
            {"frames": 1, "rows": 74, "columns": 74, "heads": 16, "head_dim": 72},
            {"frames": 16, "rows": 34, "columns": 46, "heads": 16, "head_dim": 80},
        ),
        work=work_vision_attention,
    ),
    OpSpec(
        name="moe_by_modality",
        reference=moe.moe_by_modality,
        op=ops.moe_by_modality,
        make=make_moe_by_modality,
        test_sizes=tuple(
            {"tokens": tokens, "visual": visual, "hidden": 20, "intermediate": (9, 4), "experts": 7, "k": 3, "dtype": dtype}
            for tokens, visual in ((1, 1), (5, 0), (40, 27))
            for dtype in ("float32", "bfloat16")
        ),
        bench_sizes=(
            {"tokens": 2048, "visual": 1369, "hidden": 2560, "intermediate": (1536, 512), "experts": 64, "k": 6, "dtype": "bfloat16"},
        ),
        work=work_moe_by_modality,
    ),
)
