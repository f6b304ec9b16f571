"""Which frames are taken and what is drawn on them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ImageDraw, ImageFont

from ernie_backend.media.frames import FONT, FrameSampling, draw_stamp, time_stamp
from ernie_backend.media.sniff import MediaError
from tests.media.conftest import picture


@pytest.mark.parametrize(
    ("num_frames", "sample", "expected"),
    [
        (300, "leading", list(range(0, 300, 15))),
        (300, "middle", list(range(7, 300, 15))),
        (90, "leading", [0, 5, 11, 16, 22, 28, 33, 39, 45, 50, 56, 61, 67, 73, 78, 84]),
        (90, "middle", [2, 7, 13, 18, 24, 30, 35, 41, 47, 52, 58, 63, 69, 75, 80, 86]),
    ],
)
def test_golden(num_frames: int, sample: str, expected: list[int]) -> None:
    sampling = FrameSampling(frames_sample=sample)
    assert sampling.indices(num_frames, sampling.num_frames(num_frames / 30)) == expected


@pytest.mark.parametrize(
    ("settings", "duration", "expected"),
    [
        ({}, 10.0, 20),
        ({}, 1.0, 16),
        ({}, 1000.0, 180),
        ({"fps": 0.5}, 100.0, 50),
        ({"max_frames": 30}, 100.0, 30),
        ({"min_frames": -1}, 2.0, 4),
        ({"min_frames": -1}, 0.1, 1),
        ({"max_frames": -1}, 1000.0, 2000),
        ({"fps": -1, "target_frames": 40}, 5.0, 40),
    ],
)
def test_how_many(settings: dict[str, Any], duration: float, expected: int) -> None:
    assert FrameSampling(**settings).num_frames(duration) == expected


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"target_frames": 20}, r"fps \(2\) and target_frames \(20\)\. Give one of the two, and -1 for the other"),
        ({"fps": -1, "target_frames": 8}, r"target_frames \(8\) is below min_frames \(16\)\. Raise target_frames, or lower min"),
        ({"fps": -1, "target_frames": 200}, r"target_frames \(200\) is above max_frames \(180\)\. Lower target_frames, or raise max"),
        ({"min_frames": 20, "max_frames": 10}, r"min_frames \(20\) is above max_frames \(10\)\. Lower the one, or raise the other"),
        ({"fps": -1}, "both fps and target_frames are switched off"),
    ],
)
def test_contradictions(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(MediaError, match=words):
        FrameSampling(**settings).num_frames(10)


@given(st.integers(1, 5000), st.integers(1, 400), st.sampled_from(["leading", "middle", "rand"]))
def test_one_frame_of_each_stretch(num_frames: int, wanted: int, sample: str) -> None:
    found = FrameSampling(frames_sample=sample).indices(num_frames, wanted)
    assert len(found) == min(num_frames, wanted)
    assert found == sorted(set(found)) and found[0] >= 0 and found[-1] < num_frames
    assert found == FrameSampling(frames_sample=sample).indices(num_frames, wanted), "the same again"


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, "00:00:00.00"), (1.5, "00:00:01.50"), (59.999, "00:00:60.00"), (65.25, "00:01:05.25"), (3725.04, "01:02:05.04")],
)
def test_time_stamps(seconds: float, expected: str) -> None:
    assert time_stamp(seconds) == f"time: {expected}"


@pytest.mark.parametrize(("height", "width", "size", "stroke"), [(96, 128, 9, 0), (480, 640, 48, 4), (300, 100, 10, 1), (10, 10, 1, 0)])
def test_black_letters_with_a_white_rim(height: int, width: int, size: int, stroke: int) -> None:
    """As Paddle's processors and transformers' draw it, which needs torchvision."""
    frame = picture(height, width)
    expected = frame.copy()
    font = ImageFont.truetype(str(FONT), size)
    draw = ImageDraw.Draw(expected)
    draw.text((0, 0), "time: 00:01:05.25", font=font, fill=(0, 0, 0), stroke_width=stroke, stroke_fill=(255, 255, 255))
    before = np.asarray(frame).copy()
    draw_stamp(frame, time_stamp(65.25))
    assert (np.asarray(frame) == np.asarray(expected)).all() and (np.asarray(frame) != before).any()
    assert (np.asarray(frame)[height // 2 :] == before[height // 2 :]).all()


def test_a_frame_too_small_for_letters_stays_as_it_is() -> None:
    frame = picture(9, 9)
    before = np.asarray(frame).copy()
    draw_stamp(frame, time_stamp(0))
    assert (np.asarray(frame) == before).all()


def test_the_font_comes_with_its_licence() -> None:
    assert FONT.is_file() and "Apache License" in FONT.with_name("LICENSE-Roboto").read_text(encoding="utf-8")
