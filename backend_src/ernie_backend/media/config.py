"""What a model folder says of its images and videos: patch sizes, pixel limits, placeholder ids; reads files, decodes nothing.

From config.json and the processors' own files (preprocessor_config.json, video_preprocessor_config.json, or transformers' one
processor_config.json). A key that would change the pixels and has a value we do not do is a `CheckpointError`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, ConfigError, ErnieError, InvalidRequestError, json_kind
from ..media_fields import ProcessorKwargs, read_processor_kwargs
from ..model_folder import name_of
from ..protocol import MediaKind
from .contradictions import pixel_contradiction

BICUBIC = 3
"""Pillow's number."""


class ProcessorKind(str, Enum):
    ERNIE_VL = "ernie-vl"
    PADDLEOCR_VL = "paddleocr-vl"


_AREA = 28 * 28
_DEFAULTS = {
    ProcessorKind.ERNIE_VL: ProcessorKwargs(
        image_min_pixels=4 * _AREA,
        image_max_pixels=6177 * _AREA,
        video_min_pixels=299 * _AREA,
        video_max_pixels=1196 * _AREA,
        video_fps=2,
        video_target_frames=-1,
        video_min_frames=16,
        video_max_frames=180,
        video_frames_sample="leading",
    ),
    ProcessorKind.PADDLEOCR_VL: ProcessorKwargs(image_min_pixels=147_384, image_max_pixels=3600 * _AREA),
}
"""PaddleFormers' and PaddleX's; transformers has 384² and 1536² for PaddleOCR-VL, and writes them into the folder."""

_PLACEHOLDERS = {
    MediaKind.IMAGE: ("<|image@placeholder|>", "<|IMAGE_PLACEHOLDER|>"),
    MediaKind.VIDEO: ("<|video@placeholder|>", "<|VIDEO_PLACEHOLDER|>"),
}
"""What templates write: the published ones the first, transformers' the second."""


@dataclass(frozen=True)
class MediaConfig:
    """How one model takes images and videos."""

    processor: ProcessorKind
    patch_size: int
    merge_size: int
    """Patches along each side of what becomes one token."""
    temporal_merge_size: int
    """Frames of a video that become one."""
    defaults: ProcessorKwargs
    image_token_id: int
    video_token_id: int | None
    """None: no videos."""
    thinks: bool = False
    """A Thinking variant: only the folder's name tells it from the other."""

    @property
    def kinds(self) -> tuple[MediaKind, ...]:
        return (MediaKind.IMAGE,) if self.video_token_id is None else tuple(MediaKind)

    @property
    def factor(self) -> int:
        """Both sides of an image are brought to multiples of this."""
        return self.patch_size * self.merge_size

    @property
    def placeholders(self) -> dict[str, MediaKind]:
        """What a template or a raw prompt writes in an image's or video's place."""
        return {name: kind for kind in self.kinds for name in _PLACEHOLDERS[kind]}

    def token_id(self, kind: MediaKind) -> int:
        """What stands in the prompt, once for each of the item's tokens."""
        if kind is MediaKind.IMAGE:
            return self.image_token_id
        assert self.video_token_id is not None
        return self.video_token_id

    @classmethod
    def from_folder(cls, folder: str | Path) -> MediaConfig | None:
        """None for a model that takes text only."""
        folder = Path(folder)
        config = _read(folder / "config.json")
        vision = config.get("vision_config")
        if not isinstance(vision, Mapping):
            return None
        names = [*(config.get("architectures") or ()), config.get("model_type") or ""]
        is_ocr = any("paddleocr" in str(name).lower().replace("_", "") for name in names)
        processor = ProcessorKind.PADDLEOCR_VL if is_ocr else ProcessorKind.ERNIE_VL
        image, video = _processor_files(folder)
        _check_processing(image, folder)
        _check_processing(video, folder)
        merge = _integer(vision, "spatial_merge_size", _integer(config, "spatial_conv_size", 2))
        temporal = _integer(config, "temporal_conv_size", _integer(vision, "temporal_merge_size", 2))
        image_token = _integer(config, "im_patch_id", _integer(config, "image_token_id", 100295))
        return cls(
            processor=processor,
            patch_size=_integer(vision, "patch_size", 14),
            merge_size=merge,
            temporal_merge_size=1 if is_ocr else temporal,
            defaults=_limits(video, "video").over(_limits(image, "image").over(_DEFAULTS[processor])),
            image_token_id=image_token,
            # published configurations have one id for both; transformers' a second one
            video_token_id=None if is_ocr else _integer(config, "video_token_id", image_token),
            thinks="thinking" in name_of(folder).lower(),
        )

    def to_json_object(self) -> dict[str, Any]:
        return asdict(self) | {"processor": self.processor.value}

    @classmethod
    def from_json_object(cls, given: Mapping[str, Any]) -> MediaConfig:
        """What `to_json_object` wrote."""
        return cls(**{**given, "processor": ProcessorKind(given["processor"]), "defaults": ProcessorKwargs(**given["defaults"])})

    def server_defaults(self, given: ProcessorKwargs) -> ProcessorKwargs:
        """The model's defaults under `--mm-processor-kwargs`. `ConfigError` for what the weights have decided otherwise, and for limits
        between which nothing is left: every image, or every video, would be refused."""
        self.check_sizes(given, ConfigError)
        settings = given.over(self.defaults)
        for what in ("image_{}_pixels", "video_{}_pixels", "video_{}_frames"):
            (low_name, low), (high_name, high) = ((name, getattr(settings, name)) for name in (what.format("min"), what.format("max")))
            if low is not None and high is not None and 0 < high < low:
                raise ConfigError(
                    f"--mm-processor-kwargs: {low_name} ({low}) is above {high_name} ({high}). Lower the one, or raise the other.",
                    param="mm_processor_kwargs",
                )
        for kind in self.kinds:
            low, high = getattr(settings, f"{kind.value}_min_pixels"), getattr(settings, f"{kind.value}_max_pixels")
            found = pixel_contradiction(kind, low, high, self.factor)
            if found is not None:
                raise ConfigError(f"--mm-processor-kwargs: every {kind.value} {found.text}.", param="mm_processor_kwargs")
        return settings

    def check_sizes(self, given: ProcessorKwargs, error: type[ErnieError] = InvalidRequestError) -> None:
        """Raises `error` for what the weights have decided otherwise."""
        for name, own in (("spatial_conv_size", self.merge_size), ("temporal_conv_size", self.temporal_merge_size)):
            place, value = f"mm_processor_kwargs.{name}", getattr(given, name)
            if value not in (None, own):
                raise error(f"{place} is {own} in this model, got {value}.", param=place)


def _processor_files(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the image processor's settings, the video processor's)."""
    both = _read(folder / "processor_config.json")
    image = both.get("image_processor") or _read(folder / "preprocessor_config.json")
    video = both.get("video_processor") or _read(folder / "video_preprocessor_config.json")
    for name, given in (("image_processor", image), ("video_processor", video)):
        if not isinstance(given, dict):
            raise CheckpointError(f"processor_config.json: {name} must be an object, got {json_kind(given)}.", param="model")
    return image, video


def _limits(given: Mapping[str, Any], kind: str) -> ProcessorKwargs:
    """`min_pixels` and `max_pixels`, or transformers' `size`; for videos also the sampling."""
    size = given.get("size") or {}
    if not isinstance(size, Mapping):
        raise CheckpointError(f"The {kind} processor's settings: size must be an object, got {json_kind(size)}.", param="size")
    values = {
        f"{kind}_min_pixels": given.get("min_pixels") or size.get("min_pixels") or size.get("shortest_edge"),
        f"{kind}_max_pixels": given.get("max_pixels") or size.get("max_pixels") or size.get("longest_edge"),
    }
    if kind == "video":
        values |= {f"video_{name}": given.get(name) for name in ("fps", "min_frames", "max_frames", "target_frames", "frames_sample")}
    return read_processor_kwargs(values, f"The {kind} processor's settings", CheckpointError)


def _check_processing(given: Mapping[str, Any], folder: Path) -> None:
    for name in ("do_resize", "do_rescale", "do_normalize", "do_convert_rgb", "draw_on_frames"):
        if given.get(name, True) is False:
            raise _unsupported(folder, name, given[name], "true")
    factor = given.get("rescale_factor")
    if factor is not None and not (isinstance(factor, int | float) and math.isclose(factor, 1 / 255, rel_tol=1e-4)):
        raise _unsupported(folder, "rescale_factor", factor, "1/255")
    if given.get("resample") not in (None, BICUBIC):
        raise _unsupported(folder, "resample", given["resample"], f"{BICUBIC} (bicubic)")


def _unsupported(folder: Path, name: str, value: Any, supported: str) -> CheckpointError:
    return CheckpointError(f"Image processor of {str(folder)!r}: {name} {value!r} is not supported, {supported} is.", param=name)


def _integer(given: Mapping[str, Any], name: str, default: int) -> int:
    value = given.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise CheckpointError(f"config.json: {name} must be a positive integer, got {value!r}.", param=name)
    return value


def _read(path: Path) -> dict[str, Any]:
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"Cannot read {str(path)!r}: {error}.", param="model") from None
    if not isinstance(given, dict):
        raise CheckpointError(f"{str(path)!r} must hold a JSON object.", param="model")
    return given
