"""From a file's bytes to patches: measured, decoded, resized, cut. Fetches nothing and knows no prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from ..errors import ContextLengthError
from ..media_fields import MediaPart, ProcessorKwargs
from ..protocol import MediaKind
from .config import MediaConfig, ProcessorKind
from .contradictions import pixel_contradiction
from .frames import FrameSampling
from .image import MAX_IMAGE_PIXELS, open_image, resized, to_rgb
from .patches import LoadedMedia, content_hash, merged_order, raster_order
from .resize import ernie_size, paddleocr_size
from .sniff import MediaError
from .video import Video, open_video

_CHANNELS = 3


class Decoder:
    """One model's way with images and videos."""

    def __init__(self, config: MediaConfig, max_tokens: int) -> None:
        """`max_tokens`: what one prompt may have; a larger item is refused before it is decoded."""
        self._config = config
        self._max_tokens = max_tokens
        self._smart_size: Callable[..., tuple[int, int]] = paddleocr_size if config.processor is ProcessorKind.PADDLEOCR_VL else ernie_size

    def decode(self, data: bytes, part: MediaPart, settings: ProcessorKwargs) -> LoadedMedia:
        """`settings`: the part's come on top. Raises `MediaError`, and `ContextLengthError` before anything large is allocated."""
        settings = part.settings.over(settings)
        if part.kind is MediaKind.IMAGE:
            return self._image(data, part, settings)
        with open_video(data) as video:
            return self._video(video, part, settings)

    def _image(self, data: bytes, part: MediaPart, settings: ProcessorKwargs) -> LoadedMedia:
        image = open_image(data)
        first = (part.height, part.width) if part.height is not None and part.width is not None else (image.height, image.width)
        if first[0] * first[1] > MAX_IMAGE_PIXELS:
            raise MediaError(f"shall be resized to more than {MAX_IMAGE_PIXELS} pixels")
        height, width = self._size(part.kind, *first, settings.image_min_pixels, settings.image_max_pixels)
        self._check_tokens(1, height, width, part)
        return self._cut(part.kind, 1, height, width, [np.asarray(resized(resized(to_rgb(image), *first), height, width))])

    def _video(self, video: Video, part: MediaPart, settings: ProcessorKwargs) -> LoadedMedia:
        facts, sampling = video.facts, _sampling(settings)
        height, width = self._size(part.kind, facts.height, facts.width, settings.video_min_pixels, settings.video_max_pixels)
        indices = sampling.indices(facts.num_frames, sampling.num_frames(facts.duration_seconds))
        num_frames = -(-len(indices) // self._config.temporal_merge_size) * self._config.temporal_merge_size
        self._check_tokens(num_frames, height, width, part)
        frames = (np.asarray(resized(frame, height, width)) for frame in video.frames(indices))
        return self._cut(part.kind, num_frames, height, width, frames)

    def _size(self, kind: MediaKind, height: int, width: int, min_pixels: int | None, max_pixels: int | None) -> tuple[int, int]:
        assert min_pixels is not None and max_pixels is not None
        found = pixel_contradiction(kind, min_pixels, max_pixels, self._config.factor)
        if found is not None:
            raise MediaError(found.text)
        return self._smart_size(height, width, factor=self._config.factor, min_pixels=min_pixels, max_pixels=max_pixels)

    def _num_tokens(self, num_frames: int, height: int, width: int, kind: MediaKind) -> int:
        frames = num_frames // self._config.temporal_merge_size if kind is MediaKind.VIDEO else num_frames
        return frames * (height // self._config.factor) * (width // self._config.factor)

    def _check_tokens(self, num_frames: int, height: int, width: int, part: MediaPart) -> None:
        tokens = self._num_tokens(num_frames, height, width, part.kind)
        if tokens < self._max_tokens:
            return
        less = "fewer frames or a lower video_max_pixels" if part.kind is MediaKind.VIDEO else "a smaller one or a lower image_max_pixels"
        raise ContextLengthError(
            f"{part.place}: the {part.kind.value} takes {tokens} tokens, but this server's context is {self._max_tokens} tokens for "
            f"prompt and answer together. Give {less}.",
            param=part.place,
        )

    def _cut(self, kind: MediaKind, num_frames: int, height: int, width: int, frames: Iterable[np.ndarray]) -> LoadedMedia:
        """`frames`: [height, width, 3] each; the last one is doubled, its stamp with it, until there are `num_frames`."""
        patch = self._config.patch_size
        grid = (num_frames, height // patch, width // patch)
        cut = np.empty((num_frames, grid[1] * grid[2], _CHANNELS * patch * patch), np.uint8)
        count = 0
        for count, frame in enumerate(frames, 1):  # one at a time: a video's frames beside its patches would double the memory
            cut[count - 1] = self._patches(frame[np.newaxis])
        cut[count:] = cut[count - 1]
        patches = cut.tobytes()
        return LoadedMedia(kind, patches, grid, self._num_tokens(num_frames, height, width, kind), content_hash(kind, grid, patches))

    def _patches(self, frames: np.ndarray) -> np.ndarray:
        if self._config.processor is ProcessorKind.PADDLEOCR_VL:
            return raster_order(frames, self._config.patch_size)
        return merged_order(frames, self._config.patch_size, self._config.merge_size)


def _sampling(settings: ProcessorKwargs) -> FrameSampling:
    assert settings.video_fps is not None and settings.video_target_frames is not None
    assert settings.video_min_frames is not None and settings.video_max_frames is not None and settings.video_frames_sample is not None
    if settings.video_fps <= 0 and settings.video_target_frames <= 0:
        return FrameSampling(frames_sample=settings.video_frames_sample)
    return FrameSampling(
        settings.video_fps, settings.video_min_frames, settings.video_max_frames, settings.video_target_frames, settings.video_frames_sample
    )
