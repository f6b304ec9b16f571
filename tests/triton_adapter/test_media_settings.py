"""A request's `mm_processor_kwargs` that fit nothing: refused before anything is fetched, naming the field that the user wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ernie_backend.errors import InvalidRequestError
from ernie_backend.triton_adapter.preprocess import PreparedRequest, Preprocessor, RequestInputs
from tests.triton_adapter.test_preprocess import make

IMAGE = {"type": "image_url", "image_url": {"url": "https://nowhere.example/a.png"}}
VIDEO = {"type": "video_url", "video_url": {"url": "https://nowhere.example/a.mp4"}}


@pytest.fixture(scope="module")
def preprocessor(seeing_folder: Path) -> Iterator[Preprocessor]:
    made = make(seeing_folder, max_model_len=4000)
    yield made
    made.close()


def prepare(preprocessor: Preprocessor, parts: list[dict[str, Any]], settings: dict[str, Any]) -> PreparedRequest:
    content = [{"type": "text", "text": "a"}, *parts]
    chat = {"messages": [{"role": "user", "content": content}], "mm_processor_kwargs": settings}
    return preprocessor.prepare(RequestInputs(chat=json.dumps(chat)))


@pytest.mark.parametrize(
    ("settings", "field", "words"),
    [
        ({"image_max_pixels": 100}, "image_max_pixels", "contradicting settings: min_pixels (3136) is above max_pixels (100)"),
        ({"max_pixels": 100, "min_pixels": 1}, "image_max_pixels", "one takes 784 (28 × 28)"),
        ({"image_min_pixels": 800, "image_max_pixels": 1500}, "image_max_pixels", "no multiple of 784"),
        ({"image_min_pixels": 2**30}, "image_min_pixels", "(1073741824) is above max_pixels"),
        ({"video_max_pixels": 100}, "video_max_pixels", "the video has contradicting settings"),
        ({"video_min_frames": 20, "video_max_frames": 10}, "video_max_frames", "min_frames (20) is above max_frames (10)"),
        ({"video_min_frames": 500}, "video_min_frames", "min_frames (500) is above max_frames (180)"),
        ({"video_target_frames": 4}, "video_target_frames", "is below min_frames (16)"),
        ({"video_fps": 2, "video_target_frames": 30}, "video_target_frames", "Give one of the two"),
        ({"video_max_frames": 0}, "video_max_frames", "must be an integer from 1 to"),
        ({"video_fps": -3}, "video_fps", "must be a number above 0"),
        ({"image_min_pixels": True}, "image_min_pixels", "must be an integer from 1 to"),
        ({"image_min_pixels": [9]}, "image_min_pixels", "must be an integer from 1 to"),
        ({"video_frames_sample": "last"}, "video_frames_sample", "must be one of leading"),
        ({"spatial_conv_size": 4}, "spatial_conv_size", "is 2 in this model, got 4"),
        ({"surprise": 4}, "surprise", "Unknown key"),
    ],
)
def test_the_field_is_named(preprocessor: Preprocessor, settings: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        prepare(preprocessor, [IMAGE, VIDEO], settings)
    assert caught.value.param == f"mm_processor_kwargs.{field}"
    assert field in caught.value.message and words in caught.value.message


def test_what_no_part_of_the_prompt_needs_is_let_be(preprocessor: Preprocessor) -> None:
    assert prepare(preprocessor, [VIDEO], {"image_max_pixels": 100}).media_settings.image_max_pixels == 100
    assert prepare(preprocessor, [IMAGE], {"video_max_frames": 8}).media_settings.video_max_frames == 8
    assert prepare(preprocessor, [VIDEO], {"video_fps": -1, "video_target_frames": -1}).media_settings.video_fps == -1


def test_what_a_part_says_itself_is_for_the_decoder(preprocessor: Preprocessor) -> None:
    own = {**VIDEO, "video_url": {**VIDEO["video_url"], "max_frames": 16}}
    assert prepare(preprocessor, [own], {"video_max_frames": 8}).media_settings.video_max_frames == 8, "replaced by the part's"
    assert prepare(preprocessor, [own], {"video_min_frames": 20}).media_settings.video_min_frames == 20, "the part's fault"
