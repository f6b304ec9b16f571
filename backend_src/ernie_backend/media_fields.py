"""What users say about images and videos: parts of a message, processing settings, how many a prompt may hold; reads no pixel.

Every check of a name, type or range is here, once, for start-up flags and requests alike. What the values do stands in `media/`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from .errors import ConfigError, ErnieError, InvalidRequestError, json_kind
from .known_fields import WITHOUT_EFFECT, check_known
from .protocol import MediaKind

DEFAULT_LIMITS = {"image": 1, "video": 1}
"""FastDeploy's, which knows audio besides (1): no model here takes any, whatever the limit."""
MAX_PIXELS = 2**31 - 1
MAX_FRAMES = 2**20
MAX_FPS = 1000
MAX_SIDE = 65535
_DOMAIN = re.compile(r"(\*?\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
FRAMES_SAMPLE = ("leading", "middle", "rand")


@dataclass(frozen=True)
class ProcessorKwargs:
    """How to resize images and videos and which frames to take. None: as the model's own files say."""

    image_min_pixels: int | None = None
    image_max_pixels: int | None = None
    video_min_pixels: int | None = None
    """Of one frame."""
    video_max_pixels: int | None = None
    video_fps: float | None = None
    """Frames taken per second; −1: `video_target_frames` counts."""
    video_target_frames: int | None = None
    """Frames taken; −1: `video_fps` counts."""
    video_min_frames: int | None = None
    video_max_frames: int | None = None
    video_frames_sample: str | None = None
    """Which frame of each stretch: its first (`leading`), the one in its middle, or any (`rand`)."""
    spatial_conv_size: int | None = None
    temporal_conv_size: int | None = None

    def over(self, wider: ProcessorKwargs) -> ProcessorKwargs:
        """These settings, and those of `wider` where these are silent. Rate and number of frames replace each other."""
        if self.video_target_frames is not None and self.video_fps is None:
            wider = replace(wider, video_fps=-1)
        elif self.video_fps is not None and self.video_target_frames is None:
            wider = replace(wider, video_target_frames=-1)
        given = {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}
        return replace(wider, **given)


_ALIASES = {"min_pixels": "image_min_pixels", "max_pixels": "image_max_pixels"}
"""What PaddleX's client for PaddleOCR-VL sends."""


def read_processor_kwargs(given: Any, name: str, error: type[ErnieError] = InvalidRequestError) -> ProcessorKwargs:
    """From the JSON object called `name`. Raises `error` naming the key at fault; FastDeploy would drop the whole object."""
    if not isinstance(given, Mapping):
        raise error(f"{name} must be an object, got {json_kind(given)}.", param=name)
    known = [f.name for f in fields(ProcessorKwargs)]
    values: dict[str, Any] = {}
    for key, value in given.items():
        target = _ALIASES.get(key, key)
        if target not in known:
            raise error(f"Unknown key {key[:80]!r} in {name}. Known: {', '.join((*known, *_ALIASES))}.", param=f"{name}.{key}")
        if value is None:
            continue
        if target in values:
            raise error(f"{name}: {key} and {target} are the same setting. Give one of them.", param=f"{name}.{key}")
        values[target] = _setting(target, value, f"{name}.{key}", error)
    return ProcessorKwargs(**values)


def read_limits(given: Any, name: str, error: type[ErnieError] = InvalidRequestError) -> dict[str, int]:
    """How many of each kind a prompt may hold: `given` over FastDeploy's defaults; 0 forbids."""
    if not isinstance(given, Mapping):
        raise error(f'{name} must be an object such as {{"image": 10, "video": 3}}, got {json_kind(given)}.', param=name)
    limits = dict(DEFAULT_LIMITS)
    for key, value in given.items():
        if key not in (*DEFAULT_LIMITS, "audio"):
            raise error(f"Unknown key {str(key)[:80]!r} in {name}. Known: {', '.join(DEFAULT_LIMITS)}.", param=name)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 10_000:
            raise error(f"{name}.{key} must be an integer from 0 to 10000, got {value!r}.", param=name)
        if key in DEFAULT_LIMITS:
            limits[key] = value
    return limits


def check_sources(domains: Any, local_root: Any) -> None:
    """`allowed_media_domains` and `allowed_local_media_path`. Raises `ConfigError`."""
    if domains is not None and not (
        isinstance(domains, list) and all(isinstance(name, str) and _DOMAIN.fullmatch(name) for name in domains)
    ):
        name = "allowed_media_domains"
        raise ConfigError(f"{name} must be names of hosts, such as example.com or .example.com, got {domains!r}.", param=name)
    if local_root is not None and not (isinstance(local_root, str) and Path(local_root).is_dir()):
        name = "allowed_local_media_path"
        raise ConfigError(f"{name} must be a folder, got {local_root!r}.", param=name)


def _setting(target: str, value: Any, place: str, error: type[ErnieError]) -> Any:
    if target == "video_frames_sample":
        if value not in FRAMES_SAMPLE:
            raise error(f"{place} must be one of {', '.join(FRAMES_SAMPLE)}.", param=place)
        return value
    if target == "video_fps":
        return _number(value, place, error)
    high = MAX_PIXELS if target.endswith("pixels") else MAX_FRAMES if target.endswith("frames") else 16
    return _integer(value, place, high, error, or_off=target.endswith("frames"))


def _integer(value: Any, place: str, high: int, error: type[ErnieError], *, or_off: bool = False) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not (1 <= value <= high or (or_off and value == -1)):
        raise error(f"{place} must be an integer from 1 to {high}{', or -1' if or_off else ''}.", param=place)
    return value


def _number(value: Any, place: str, error: type[ErnieError]) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not (0 < value <= MAX_FPS or value == -1):
        raise error(f"{place} must be a number above 0 and at most {MAX_FPS}, or -1.", param=place)
    return value


AS_THE_MODEL_SAYS = ProcessorKwargs()


# parts of a message --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MediaPart:
    """One image or video that a request brings, not yet fetched."""

    kind: MediaKind
    url: str
    place: str
    """`messages[0].content[1]`, for messages."""
    width: int | None = None
    """Images: resize to this first, whatever the model's limits say then. Given with `height` or not at all."""
    height: int | None = None
    settings: ProcessorKwargs = AS_THE_MODEL_SAYS
    """Of this part alone."""


_FIELD_OF = {"image_url": MediaKind.IMAGE, "video_url": MediaKind.VIDEO}
MEDIA_TYPES = tuple(_FIELD_OF)
_IMAGE_KEYS = ("url", "detail", "uuid", "image_width", "image_height")
_VIDEO_KEYS = {
    "fps": "video_fps",
    "min_frames": "video_min_frames",
    "max_frames": "video_max_frames",
    "target_frames": "video_target_frames",
    "frames_sample": "video_frames_sample",
}
_DETAILS = ("auto", "low", "high")


def read_media_part(part: Mapping[str, Any], place: str) -> MediaPart:
    """A part of type `image_url` or `video_url`. Raises `InvalidRequestError` naming the field.

    `detail` has no effect, nor has `uuid`, in the part or within: what is kept is found by its content, so that nobody reads or replaces
    another's by its name.
    """
    kind = part["type"]
    check_known(part, ("type", "uuid", kind), place, without_effect=WITHOUT_EFFECT)
    if not isinstance(part.get("uuid", ""), str | None):
        raise _wrong(place, "uuid", f"uuid must be a string, got {json_kind(part['uuid'])}")
    given = part.get(kind)
    if given is None or (given == {} and part.get("uuid")):
        alone = " (a uuid alone brings nothing back: what was sent before is found again by its content)" if part.get("uuid") else ""
        raise _wrong(place, kind, f'{kind} is missing{alone}: give {{"url": …}}')
    if isinstance(given, str):
        given = {"url": given}
    if not isinstance(given, Mapping):
        raise _wrong(place, kind, f"{kind} must be an object with url, got {json_kind(given)}")
    known = ("url", "detail", "uuid", *_VIDEO_KEYS) if _FIELD_OF[kind] is MediaKind.VIDEO else _IMAGE_KEYS
    check_known(given, known, f"{place}.{kind}")
    given = {key: value for key, value in given.items() if value is not None}
    url = given.get("url")
    if not isinstance(url, str) or not url:
        raise _wrong(place, f"{kind}.url", f"{kind}.url must be a non-empty string")
    if given.get("detail", "auto") not in _DETAILS:
        raise _wrong(place, f"{kind}.detail", f"{kind}.detail must be one of {', '.join(_DETAILS)}")
    if not isinstance(given.get("uuid", ""), str):
        raise _wrong(place, f"{kind}.uuid", f"{kind}.uuid must be a string, got {json_kind(given['uuid'])}")
    width, height = _size(given, f"{place}.{kind}")
    settings = {
        target: _setting(target, given[key], f"{place}.{kind}.{key}", InvalidRequestError)
        for key, target in _VIDEO_KEYS.items()
        if key in given
    }
    return MediaPart(_FIELD_OF[kind], url, place, width, height, ProcessorKwargs(**settings))


def _size(given: Mapping[str, Any], place: str) -> tuple[int | None, int | None]:
    names = ("image_width", "image_height")
    present = [name for name in names if name in given]
    if len(present) == 1:
        raise InvalidRequestError(f"{place}: give image_width and image_height together.", param=f"{place}.{present[0]}")
    values = [_integer(given[name], f"{place}.{name}", MAX_SIDE, InvalidRequestError) for name in present]
    return (values[0], values[1]) if values else (None, None)


def _wrong(place: str, key: str, text: str) -> InvalidRequestError:
    return InvalidRequestError(f"{place}: {text}.", param=f"{place}.{key}")


def check_counts(parts: Sequence[MediaPart], limits: Mapping[str, int]) -> None:
    """Before anything is fetched. Raises `InvalidRequestError` naming the first part that is too many."""
    for kind in MediaKind:
        found = [part for part in parts if part.kind is kind]
        limit = limits[kind.value]
        if len(found) > limit:
            place = found[limit].place
            raise InvalidRequestError(
                f"{place}: Too many {kind.value} items in prompt, got {len(found)} but limit is {limit}.", param=place
            )
