"""What a model folder says of its images and videos, as published and as transformers writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import Ernie4_5_VLMoeImageProcessorPil, PaddleOCRVLImageProcessorPil

from ernie_backend.errors import CheckpointError, ConfigError
from ernie_backend.media.config import MediaConfig, ProcessorKind
from ernie_backend.media_fields import ProcessorKwargs
from ernie_backend.protocol import MediaKind
from tests.media.models import ERNIE_VL, ERNIE_VL_TRANSFORMERS, PADDLEOCR_VL, write_folder

AREA = 28 * 28


def read(folder: Path, config: dict[str, Any], **files: Any) -> MediaConfig:
    found = MediaConfig.from_folder(write_folder(folder, config, **files))
    assert found is not None
    return found


def test_a_text_model_has_none(tmp_path: Path) -> None:
    assert MediaConfig.from_folder(write_folder(tmp_path, {"architectures": ["Ernie4_5ForCausalLM"]})) is None


def test_published(tmp_path: Path) -> None:
    config = read(tmp_path, ERNIE_VL)
    assert (config.processor, config.factor, config.temporal_merge_size) == (ProcessorKind.ERNIE_VL, 28, 2)
    assert (config.image_token_id, config.video_token_id) == (100295, 100295)
    defaults = config.defaults
    assert (defaults.image_min_pixels, defaults.image_max_pixels) == (4 * AREA, 6177 * AREA)
    assert (defaults.video_min_pixels, defaults.video_max_pixels) == (299 * AREA, 1196 * AREA)
    assert (defaults.video_fps, defaults.video_min_frames, defaults.video_max_frames, defaults.video_frames_sample) == (
        2,
        16,
        180,
        "leading",
    )
    assert config.placeholders == {
        "<|image@placeholder|>": MediaKind.IMAGE,
        "<|IMAGE_PLACEHOLDER|>": MediaKind.IMAGE,
        "<|video@placeholder|>": MediaKind.VIDEO,
        "<|VIDEO_PLACEHOLDER|>": MediaKind.VIDEO,
    }


def test_as_transformers_writes_it(tmp_path: Path) -> None:
    Ernie4_5_VLMoeImageProcessorPil(size={"shortest_edge": 5000, "longest_edge": 90_000}).save_pretrained(tmp_path)
    video = {
        "size": {"shortest_edge": 6000, "longest_edge": 80_000},
        "fps": None,
        "min_frames": 8,
        "max_frames": 32,
        "draw_on_frames": True,
    }
    config = read(tmp_path, ERNIE_VL_TRANSFORMERS, video_preprocessor_config=video)
    assert (config.image_token_id, config.video_token_id) == (100295, 103367)
    assert (config.defaults.image_min_pixels, config.defaults.image_max_pixels) == (5000, 90_000)
    assert (config.defaults.video_min_pixels, config.defaults.video_max_pixels, config.defaults.video_fps) == (6000, 80_000, 2)
    assert (config.defaults.video_min_frames, config.defaults.video_max_frames) == (8, 32)


def test_one_file_for_both_processors(tmp_path: Path) -> None:
    both = {"image_processor": {"size": {"shortest_edge": 1, "longest_edge": 2}}, "video_processor": {"size": {"longest_edge": 4}}}
    config = read(tmp_path, ERNIE_VL_TRANSFORMERS, processor_config=both)
    assert (config.defaults.image_max_pixels, config.defaults.video_max_pixels, config.defaults.video_min_pixels) == (2, 4, 299 * AREA)


def test_a_thinking_variant_is_told_by_its_name_also_in_a_cache(tmp_path: Path) -> None:
    """Hugging Face's cache calls the folder by its commit."""
    for folder, thinks in (
        (tmp_path / "ERNIE-4.5-VL-28B-A3B-Thinking", True),
        (tmp_path / "ERNIE-4.5-VL-28B-A3B-PT", False),
        (tmp_path / "models--baidu--ERNIE-4.5-VL-28B-A3B-Thinking" / "snapshots" / "0a1b2c", True),
        (tmp_path / "thinking" / "ERNIE-4.5-VL-28B-A3B-PT", False),
    ):
        folder.mkdir(parents=True)
        assert read(folder, ERNIE_VL).thinks is thinks


def test_paddleocr(tmp_path: Path) -> None:
    config = read(tmp_path, PADDLEOCR_VL)
    assert (config.processor, config.temporal_merge_size, config.video_token_id) == (ProcessorKind.PADDLEOCR_VL, 1, None)
    assert config.kinds == (MediaKind.IMAGE,) and set(config.placeholders.values()) == {MediaKind.IMAGE}
    assert (config.defaults.image_min_pixels, config.defaults.image_max_pixels) == (147_384, 2_822_400)
    PaddleOCRVLImageProcessorPil().save_pretrained(tmp_path)
    config = read(tmp_path, PADDLEOCR_VL)
    assert (config.defaults.image_min_pixels, config.defaults.image_max_pixels) == (384**2, 1536**2)


@pytest.mark.parametrize(
    ("config", "files", "words"),
    [
        (ERNIE_VL, {"preprocessor_config": {"resample": 2}}, "resample 2 is not supported"),
        (ERNIE_VL, {"preprocessor_config": {"do_resize": False}}, "do_resize False is not supported"),
        (ERNIE_VL, {"video_preprocessor_config": {"draw_on_frames": False}}, "draw_on_frames"),
        (ERNIE_VL, {"preprocessor_config": {"min_pixels": -5}}, "min_pixels must be an integer"),
        (ERNIE_VL, {"preprocessor_config": []}, "must hold a JSON object"),
        (ERNIE_VL, {"preprocessor_config": {"rescale_factor": 1 / 127.5}}, "rescale_factor .* is not supported, 1/255 is"),
        (ERNIE_VL, {"preprocessor_config": {"size": 448}}, "size must be an object, got a number"),
        (ERNIE_VL, {"processor_config": {"image_processor": [1]}}, "image_processor must be an object, got a list"),
        ({**ERNIE_VL, "vision_config": {"patch_size": "14"}}, {}, "patch_size must be a positive integer"),
    ],
)
def test_what_we_do_not_do_is_refused(tmp_path: Path, config: dict[str, Any], files: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        read(tmp_path, config, **files)


def test_server_settings(tmp_path: Path) -> None:
    config = read(tmp_path, ERNIE_VL)
    settings = config.server_defaults(ProcessorKwargs(image_max_pixels=12845056, video_max_frames=30, spatial_conv_size=2))
    assert (settings.image_max_pixels, settings.video_max_frames, settings.video_min_frames) == (12845056, 30, 16)
    with pytest.raises(ConfigError, match="spatial_conv_size is 2 in this model, got 3"):
        config.server_defaults(ProcessorKwargs(spatial_conv_size=3))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"image_min_pixels": 2000, "image_max_pixels": 1000}, r"image_min_pixels \(2000\) is above image_max_pixels \(1000\)"),
        ({"image_max_pixels": 1000}, r"image_min_pixels \([0-9]+\) is above image_max_pixels \(1000\)"),
        ({"video_min_pixels": 2**30}, "video_min_pixels"),
        ({"image_min_pixels": 1, "image_max_pixels": 783}, r"every image has room for no token: max_pixels is 783, and one takes 784"),
        ({"video_max_frames": 8}, r"video_min_frames \(16\) is above video_max_frames \(8\)"),
    ],
)
def test_limits_between_which_nothing_is_left(tmp_path: Path, given: dict[str, Any], words: str) -> None:
    config = read(tmp_path, ERNIE_VL)
    with pytest.raises(ConfigError, match=f"--mm-processor-kwargs: {words}"):
        config.server_defaults(ProcessorKwargs(**given))
    both_off = ProcessorKwargs(video_min_frames=-1, video_max_frames=-1)
    assert config.server_defaults(both_off).video_max_frames == -1
