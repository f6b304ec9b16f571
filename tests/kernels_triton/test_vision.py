"""Kernels of models that see, interpreted at tiny sizes against float64, with NaN where nothing may be read."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ernie_kernels.triton import combine, rotary, vision_attention, vision_elementwise
from tests.kernels_triton.bfloat16_arrays import bf16, f32, poisoned, relative_error


@pytest.mark.parametrize(
    ("frames", "patches", "num_heads", "head_dim"),
    [(1, 1, 1, 4), (2, 20, 2, 16), (1, 64, 1, 80), (2, 65, 2, 72), (1, 150, 1, 80), (3, 30, 1, 24)],
)
def test_vision_attention(frames: int, patches: int, num_heads: int, head_dim: int) -> None:
    rng = np.random.default_rng(1)
    half = head_dim // 2
    qkv = bf16(rng.standard_normal((frames * patches, 3 * num_heads * head_dim)))
    given = f32(qkv).reshape(frames, patches, 3, num_heads, head_dim).astype(np.float64)
    angles = rng.uniform(0, 6, (patches, half))
    out = poisoned(frames * patches, num_heads * head_dim)
    scale = head_dim**-0.5
    vision_attention.vision_attention(qkv, np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32), scale, out)

    pairs = (given[:, :, :2, :, :half] + 1j * given[:, :, :2, :, half:]) * np.exp(1j * angles)[None, :, None, None]
    turned = np.concatenate([pairs.real, pairs.imag], axis=-1)
    assert relative_error(f32(qkv).reshape(given.shape)[:, :, :2], turned) < 3e-3
    np.testing.assert_array_equal(f32(qkv).reshape(given.shape)[:, :, 2], given[:, :, 2])
    scores = np.einsum("tqhd,tkhd->thqk", turned[:, :, 0], turned[:, :, 1]) * scale
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    expected = np.einsum("thqk,tkhd->tqhd", weights, given[:, :, 2])
    assert relative_error(f32(out), expected.reshape(frames * patches, -1)) < 6e-3


def test_normalize_pixels() -> None:
    rng = np.random.default_rng(2)
    pixels, mean, std = rng.integers(0, 256, (5, 75), np.uint8), rng.random(75, np.float32), rng.random(75, np.float32) + 0.2
    out = poisoned(5, 75)
    vision_elementwise.normalize_pixels(pixels, mean, std, out)
    assert relative_error(f32(out), (pixels / 255 - mean) / std) < 3e-3


def test_layer_norm() -> None:
    rng = np.random.default_rng(3)
    x, weight, bias = bf16(rng.standard_normal((3, 100)) + 5), rng.random(100, np.float32), rng.random(100, np.float32)
    out = poisoned(3, 100)
    vision_elementwise.layer_norm(x, weight, bias, 1e-6, out)
    values = f32(x).astype(np.float64)
    normed = (values - values.mean(axis=1, keepdims=True)) / np.sqrt(values.var(axis=1, keepdims=True) + 1e-6)
    assert relative_error(f32(out), normed * weight + bias) < 3e-3


@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("kind", list(vision_elementwise.KINDS))
def test_add_bias(kind: str, add: bool) -> None:
    rng = np.random.default_rng(4)
    x, residual, bias = bf16(rng.standard_normal((2, 1100)) * 2), bf16(rng.standard_normal((2, 1100))), rng.random(1100, np.float32)
    values = f32(x).astype(np.float64) + bias
    expected = {
        "": values,
        "gelu": np.vectorize(lambda v: v * 0.5 * math.erfc(-v / math.sqrt(2)))(values),
        "gelu_pytorch_tanh": 0.5 * values * (1 + np.tanh(math.sqrt(2 / math.pi) * (values + 0.044715 * values**3))),
        "quick_gelu": values / (1 + np.exp(-1.702 * values)),
    }[kind]
    vision_elementwise.add_bias(x, bias, residual if add else None, kind)
    assert relative_error(f32(x), expected + (f32(residual) if add else 0)) < 3e-3


def test_rope_rows() -> None:
    rng = np.random.default_rng(5)
    table, positions = rng.random((50, 24), np.float32), rng.integers(0, 50, (3, 7)).astype(np.int32)
    axes = np.array([1, 2, 1, 2, 1, 2, 1, 2, 0, 0, 0, 0], np.int32)
    out = np.full((7, 24), np.nan, np.float32)
    rotary.rope_rows(table, positions, axes, out)
    np.testing.assert_array_equal(out, [[table[positions[axes[j % 12], t], j] for j in range(24)] for t in range(7)])


def test_combine_rows() -> None:
    rng = np.random.default_rng(6)
    parts, weights = bf16(rng.standard_normal((3, 5, 40))), rng.random((3, 2), np.float32)
    out = np.full((6, 40), np.nan, np.float32)
    combine.combine_rows(parts, weights, np.array([4, 0, 3], np.int32), out)
    ones = np.concatenate([weights, np.ones((3, 3), np.float32)], axis=1)
    np.testing.assert_allclose(out[[4, 0, 3]], np.einsum("tj,tjh->th", ones, f32(parts)), rtol=1e-5, atol=1e-5)
    assert np.isnan(out[[1, 2, 5]]).all()
