"""Which settings of images and videos contradict each other, whoever gave them, and which field of a request is to blame; knows no file."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InvalidRequestError
from ..media_fields import MediaPart, ProcessorKwargs
from ..protocol import MediaKind


@dataclass(frozen=True)
class Contradiction:
    """Settings that no image, or no video, can be brought to."""

    fields: tuple[str, ...]
    """Of `ProcessorKwargs`; the likeliest to be at fault first."""
    text: str
    """Completes "the image …"."""


def pixel_contradiction(kind: MediaKind, low: int, high: int, factor: int) -> Contradiction | None:
    """Of the least and the most pixels. Both sides become multiples of `factor`, so that every area is a multiple of its square."""
    area = factor * factor
    fields = (f"{kind.value}_max_pixels", f"{kind.value}_min_pixels")
    if low > high:
        return Contradiction(fields, f"has contradicting settings: min_pixels ({low}) is above max_pixels ({high})")
    if high < area:
        return Contradiction(fields[:1], f"has room for no token: max_pixels is {high}, and one takes {area} ({factor} × {factor})")
    if high // area * area < low:
        between = f"no multiple of {area} ({factor} × {factor}, one token) is at least min_pixels ({low}) and at most max_pixels ({high})"
        return Contradiction(fields, f"has contradicting settings: {between}")
    return None


def frame_contradiction(fps: float, target: int, low: int, high: int) -> Contradiction | None:
    """Of the rate, the number, the least and the most of a video's frames; −1 switches one off."""
    if target > 0:
        wanted = f"target_frames ({target})"
        if fps > 0:
            return _of_frames(("target_frames", "fps"), f"fps ({fps:g}) and {wanted}", "Give one of the two, and -1 for the other")
        if 0 < target < low:
            change = "Raise target_frames, or lower min_frames (-1: none)"
            return _of_frames(("target_frames", "min_frames"), f"{wanted} is below min_frames ({low})", change)
        if 0 < high < target:
            change = "Lower target_frames, or raise max_frames (-1: none)"
            return _of_frames(("target_frames", "max_frames"), f"{wanted} is above max_frames ({high})", change)
        return None
    if fps <= 0:
        text = "has no sampling rate: both fps and target_frames are switched off. Give one of the two a number above 0"
        return Contradiction(("video_fps", "video_target_frames"), text)
    if 0 < high < low:
        what = f"min_frames ({low}) is above max_frames ({high})"
        return _of_frames(("max_frames", "min_frames"), what, "Lower the one, or raise the other")
    return None


def _of_frames(names: tuple[str, ...], what: str, change: str) -> Contradiction:
    return Contradiction(tuple(f"video_{name}" for name in names), f"has contradicting settings: {what}. {change}")


def check_request(given: ProcessorKwargs, settings: ProcessorKwargs, part: MediaPart, factor: int) -> None:
    """Before the part is fetched. `settings`: `given`, which is the request's `mm_processor_kwargs`, over the server's and the model's.

    Raises `InvalidRequestError` for a contradiction in which `given` has a part, naming its field. What an item's own settings are at fault
    for, the decoder says.
    """
    for found in _contradictions(part.settings.over(settings), part.kind, factor):
        if any(getattr(part.settings, name) is not None for name in found.fields):
            continue
        name = next((name for name in found.fields if getattr(given, name) is not None), None)
        if name is not None:
            place = f"mm_processor_kwargs.{name}"
            raise InvalidRequestError(f"{place}: the {part.kind.value} {found.text}.", param=place)


def _contradictions(settings: ProcessorKwargs, kind: MediaKind, factor: int) -> list[Contradiction]:
    low, high = getattr(settings, f"{kind.value}_min_pixels"), getattr(settings, f"{kind.value}_max_pixels")
    found = [pixel_contradiction(kind, low, high, factor)]
    if kind is MediaKind.VIDEO:
        fps, target = settings.video_fps, settings.video_target_frames
        assert fps is not None and target is not None
        assert settings.video_min_frames is not None and settings.video_max_frames is not None
        if fps > 0 or target > 0:  # with both off, `decode` samples as if nothing had been said
            found.append(frame_contradiction(fps, target, settings.video_min_frames, settings.video_max_frames))
    return [one for one in found if one is not None]
