"""Sizes: the golden tables, the limits as properties, and transformers' own rule where the two agree."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from transformers.models.ernie4_5_vl_moe.image_processing_pil_ernie4_5_vl_moe import smart_resize as transformers_ernie
from transformers.models.paddleocr_vl.image_processing_pil_paddleocr_vl import smart_resize as transformers_paddleocr

from ernie_backend.media.resize import ernie_size, paddleocr_size
from ernie_backend.media.sniff import MediaError

AREA = 28 * 28
IMAGE = (4 * AREA, 6177 * AREA)
LARGE = (4 * AREA, 16384 * AREA)
FRAME = (299 * AREA, 1196 * AREA)
PADDLEX = (147_384, 3600 * AREA)
TRANSFORMERS_OCR = (384**2, 1536**2)

ERNIE = [
    # (height, width), as an image, as an image with 12,845,056 pixels allowed, as a video's frame
    ((1, 1), (56, 56), (56, 56), (504, 504)),
    ((42, 42), (56, 56), (56, 56), (504, 504)),
    ((70, 700), (56, 700), (56, 700), None),  # half to even: 70 / 28 = 2.5
    ((224, 224), (224, 224), (224, 224), (504, 504)),
    ((480, 640), (476, 644), (476, 644), (476, 644)),
    ((768, 1024), (756, 1036), (756, 1036), (756, 1036)),
    ((1080, 1920), (1092, 1932), (1092, 1932), (700, 1288)),
    ((1200, 800), (1204, 812), (1204, 812), (1176, 784)),
    ((2160, 3840), (1624, 2912), (2156, 3836), (700, 1288)),
    ((3000, 4000), (1904, 2520), (2996, 4004), (812, 1092)),
    ((10, 4000), (28, 5600), (28, 5600), (56, 6860)),
    ((10000, 20), (5600, 28), (5600, 28), (6860, 56)),
    ((8000, 8000), (2184, 2184), (3584, 3584), (952, 952)),
    ((1, 65535), (28, 5600), (28, 5600), (56, 6860)),
    ((65535, 1), (5600, 28), (5600, 28), (6860, 56)),
]
PADDLEOCR = [
    ((480, 640), (476, 644), (476, 644)),
    ((1000, 1400), (1008, 1400), (1008, 1400)),
    ((20, 200), (140, 1232), (140, 1232)),
    ((20, 1000), (56, 2716), (56, 2716)),
    ((100, 3000), (112, 2996), (112, 2996)),
    ((3000, 2000), (2044, 1344), (1876, 1232)),
    ((28, 5600), (28, 5600), (28, 5600)),  # exactly 200
]
SIDES = st.integers(1, 20_000)


def size(rule, given, limits):
    return rule(*given, factor=28, min_pixels=limits[0], max_pixels=limits[1])


@pytest.mark.parametrize("row", ERNIE, ids=lambda row: f"{row[0][0]}x{row[0][1]}")
def test_ernie(row) -> None:
    given, *expected = row
    found = [size(ernie_size, given, limits) for limits in (IMAGE, LARGE, FRAME)]
    assert [want for want in expected if want] == [got for got, want in zip(found, expected, strict=True) if want]


@pytest.mark.parametrize("row", PADDLEOCR, ids=lambda row: f"{row[0][0]}x{row[0][1]}")
def test_paddleocr(row) -> None:
    given, *expected = row
    assert [size(paddleocr_size, given, limits) for limits in (PADDLEX, TRANSFORMERS_OCR)] == expected


def test_paddleocr_refuses_strips() -> None:
    with pytest.raises(MediaError, match=r"absolute aspect ratio must be smaller than 200, got 210\.0"):
        size(paddleocr_size, (10, 2100), PADDLEX)


def test_limits_that_no_size_meets() -> None:
    with pytest.raises(MediaError, match=r"between 3000 and 3100 pixels: .* multiples of 28, it would be .* Raise max_pixels, or"):
        size(ernie_size, (100, 100), (3000, 3100))


@pytest.mark.parametrize("limits", [IMAGE, LARGE, FRAME])
@given(SIDES, SIDES)
def test_every_shape_comes_within_the_limits(limits: tuple[int, int], height: int, width: int) -> None:
    new_height, new_width = size(ernie_size, (height, width), limits)
    assert new_height % 28 == new_width % 28 == 0
    assert limits[0] <= new_height * new_width <= limits[1]


@given(SIDES, SIDES)
def test_as_transformers_where_it_has_no_rule_of_its_own(height: int, width: int) -> None:
    """It refuses ratios beyond 200, and lets a side of a strip become 0 before it grows it again."""
    assume(max(height, width) <= 200 * min(height, width) and min(height, width) > 14)
    assert size(ernie_size, (height, width), IMAGE) == transformers_ernie(height, width, 28, *IMAGE)


@given(SIDES, SIDES)
def test_paddleocr_as_transformers(height: int, width: int) -> None:
    try:
        expected = transformers_paddleocr(height, width, 28, *TRANSFORMERS_OCR)
    except ValueError:
        with pytest.raises(MediaError):
            size(paddleocr_size, (height, width), TRANSFORMERS_OCR)
        return
    assert size(paddleocr_size, (height, width), TRANSFORMERS_OCR) == expected
