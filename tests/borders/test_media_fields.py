"""What users may say of images and videos: every wrong name, type and range is named."""

from __future__ import annotations

from typing import Any

import pytest

from ernie_backend.errors import ConfigError, InvalidRequestError
from ernie_backend.media_fields import (
    DEFAULT_LIMITS,
    MediaPart,
    ProcessorKwargs,
    check_counts,
    read_limits,
    read_media_part,
    read_processor_kwargs,
)
from ernie_backend.protocol import MediaKind

PLACE = "messages[0].content[1]"


class TestParts:
    def test_images(self) -> None:
        part = read_media_part(
            {"type": "image_url", "image_url": {"url": "u", "detail": "high", "image_width": 30, "image_height": 20}, "uuid": "x"}, PLACE
        )
        assert part == MediaPart(MediaKind.IMAGE, "u", PLACE, 30, 20)
        named = read_media_part({"type": "image_url", "image_url": {"url": "u", "uuid": "x"}}, PLACE)
        assert named == MediaPart(MediaKind.IMAGE, "u", PLACE)
        assert read_media_part({"type": "video_url", "video_url": {"url": "u", "uuid": "x"}}, PLACE).kind is MediaKind.VIDEO
        bare = {"type": "image_url", "image_url": "u"}
        assert read_media_part(bare, PLACE) == MediaPart(MediaKind.IMAGE, "u", PLACE)
        marked = {"cache_control": {"type": "ephemeral"}, "prompt_cache_breakpoint": {"mode": "explicit"}, "id": "lc_1", "index": 0}
        assert read_media_part(bare | marked | {"colour": None}, PLACE) == read_media_part(bare, PLACE)

    def test_videos(self) -> None:
        given = {"url": "u", "detail": "low", "fps": 0.5, "min_frames": 4, "max_frames": 30, "target_frames": -1, "frames_sample": "middle"}
        part = read_media_part({"type": "video_url", "video_url": given}, PLACE)
        assert part.settings == ProcessorKwargs(
            video_fps=0.5, video_min_frames=4, video_max_frames=30, video_target_frames=-1, video_frames_sample="middle"
        )

    @pytest.mark.parametrize(
        ("part", "param"),
        [
            ({"type": "image_url"}, "image_url"),
            ({"type": "image_url", "image_url": 5}, "image_url"),
            ({"type": "image_url", "image_url": {"url": "u"}, "uuid": ["x"]}, "uuid"),
            ({"type": "image_url", "image_url": {"url": "u", "uuid": 5}}, "image_url.uuid"),
            ({"type": "image_url", "image_url": {"uuid": "x"}}, "image_url.url"),
            ({"type": "image_url", "image_url": {}}, "image_url.url"),
            ({"type": "image_url", "image_url": {"url": ""}}, "image_url.url"),
            ({"type": "image_url", "image_url": {"url": ["a"]}}, "image_url.url"),
            ({"type": "image_url", "image_url": {"url": "u", "detail": "medium"}}, "image_url.detail"),
            ({"type": "image_url", "image_url": {"url": "u", "fps": 2}}, "image_url.fps"),
            ({"type": "image_url", "image_url": {"url": "u", "image_width": 5}}, "image_url.image_width"),
            ({"type": "image_url", "image_url": {"url": "u", "image_width": 5, "image_height": 0}}, "image_url.image_height"),
            ({"type": "image_url", "image_url": {"url": "u", "image_width": 70_000, "image_height": 5}}, "image_url.image_width"),
            ({"type": "image_url", "image_url": {"url": "u", "image_width": True, "image_height": 5}}, "image_url.image_width"),
            ({"type": "image_url", "image_url": "u", "video_url": "v"}, "video_url"),
            ({"type": "image_url", "image_url": "u", "colour": {}}, "colour"),
            ({"type": "video_url", "video_url": {"url": "u", "detail": "medium"}}, "video_url.detail"),
            ({"type": "video_url", "video_url": {"url": "u", "fps": 0}}, "video_url.fps"),
            ({"type": "video_url", "video_url": {"url": "u", "fps": "2"}}, "video_url.fps"),
            ({"type": "video_url", "video_url": {"url": "u", "max_frames": 0}}, "video_url.max_frames"),
            ({"type": "video_url", "video_url": {"url": "u", "frames_sample": "last"}}, "video_url.frames_sample"),
        ],
    )
    def test_the_field_is_named(self, part: dict[str, Any], param: str) -> None:
        with pytest.raises(InvalidRequestError) as caught:
            read_media_part(part, PLACE)
        assert caught.value.param == f"{PLACE}.{param}" and PLACE in caught.value.message

    @pytest.mark.parametrize("given", [{}, {"image_url": None}, {"image_url": {}}], ids=str)
    def test_a_name_alone_brings_nothing_back(self, given: dict[str, Any]) -> None:
        """vLLM and FastDeploy keep what a client has named; here a name that others could use, too, finds nothing."""
        with pytest.raises(InvalidRequestError, match=r"image_url is missing \(a uuid alone .* content\): give \{\"url\": …\}\.") as caught:
            read_media_part({"type": "image_url", "uuid": "cat", **given}, PLACE)
        assert caught.value.param == f"{PLACE}.image_url"

    def test_counts(self) -> None:
        parts = [MediaPart(MediaKind.IMAGE, "u", f"messages[{i}]") for i in range(3)] + [MediaPart(MediaKind.VIDEO, "u", "v")]
        check_counts(parts, {"image": 3, "video": 1})
        with pytest.raises(InvalidRequestError, match="Too many image items in prompt, got 3 but limit is 2") as caught:
            check_counts(parts, {"image": 2, "video": 1})
        assert caught.value.param == "messages[2]"
        with pytest.raises(InvalidRequestError, match="Too many video items in prompt, got 1 but limit is 0"):
            check_counts(parts, {"image": 3, "video": 0})


class TestSettings:
    def test_every_key(self) -> None:
        given = {
            "spatial_conv_size": 2, "temporal_conv_size": 2, "image_min_pixels": 1, "image_max_pixels": 2, "video_min_pixels": 3,
            "video_max_pixels": 4, "video_target_frames": -1, "video_max_frames": 30, "video_min_frames": 2, "video_fps": 1,
            "video_frames_sample": "rand",
        }  # fmt: skip
        assert read_processor_kwargs(given, "m") == ProcessorKwargs(**given)  # type: ignore[arg-type]
        assert read_processor_kwargs({"min_pixels": 7, "max_pixels": 9, "video_fps": None}, "m") == ProcessorKwargs(
            image_min_pixels=7, image_max_pixels=9
        )

    @pytest.mark.parametrize(
        ("given", "param"),
        [
            ([], "m"),
            ({"image_max_pixels": "5"}, "m.image_max_pixels"),
            ({"image_max_pixels": 0}, "m.image_max_pixels"),
            ({"image_max_pixels": 2**31}, "m.image_max_pixels"),
            ({"image_max_pixels": 5, "max_pixels": 5}, "m.max_pixels"),
            ({"video_fps": True}, "m.video_fps"),
            ({"video_fps": 1e9}, "m.video_fps"),
            ({"video_max_frames": 1.5}, "m.video_max_frames"),
            ({"video_frames_sample": 3}, "m.video_frames_sample"),
            ({"max_dynamic_patch": 3}, "m.max_dynamic_patch"),
        ],
    )
    def test_the_key_is_named(self, given: Any, param: str) -> None:
        for error in (InvalidRequestError, ConfigError):
            with pytest.raises(error) as caught:
                read_processor_kwargs(given, "m", error)
            assert caught.value.param == param

    def test_narrower_over_wider(self) -> None:
        wide = ProcessorKwargs(video_fps=2, video_target_frames=-1, image_max_pixels=5)
        assert ProcessorKwargs(image_max_pixels=9).over(wide) == ProcessorKwargs(video_fps=2, video_target_frames=-1, image_max_pixels=9)
        counted = ProcessorKwargs(video_target_frames=20).over(wide)
        assert (counted.video_fps, counted.video_target_frames) == (-1, 20), "a number of frames takes the rate's place"
        assert ProcessorKwargs(video_fps=1).over(counted).video_target_frames == -1, "and the other way round"
        both = ProcessorKwargs(video_fps=1, video_target_frames=20).over(wide)
        assert (both.video_fps, both.video_target_frames) == (1, 20), "who gives both gets to hear of it"


def test_limits() -> None:
    assert read_limits({}, "l") == DEFAULT_LIMITS == {"image": 1, "video": 1}
    assert read_limits({"audio": 0}, "l") == read_limits({"audio": 1}, "l") == DEFAULT_LIMITS, "FastDeploy's has audio: 1"
    assert read_limits({"image": 10, "video": 0}, "l") == {"image": 10, "video": 0}
    for given in ([], {"images": 1}, {"image": -1}, {"image": "1"}, {"image": True}, {"audio": "1"}, {"audio": False}, {"audio": -1}):
        with pytest.raises(ConfigError, match="l"):
            read_limits(given, "l", ConfigError)
