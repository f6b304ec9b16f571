"""One image or video from its URL to patches: fetched, measured, decoded, resized, cut. Knows no prompt and no queue."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np

from ..errors import ContextLengthError, InvalidRequestError
from ..media_fields import MediaPart, ProcessorKwargs
from ..protocol import MediaKind
from .config import MediaConfig, ProcessorKind
from .fetch import Fetcher
from .frames import FrameSampling
from .image import MAX_IMAGE_PIXELS, open_image, resized, to_rgb
from .patches import LoadedMedia, content_hash, merged_order, raster_order
from .resize import ernie_size, paddleocr_size
from .sniff import MediaError
from .video import Video, open_video

DECODERS = 2
"""Images decoded at once in one process, and videos likewise: memory and cores are bounded, downloads are not held up."""


class MediaLoader:
    """For several threads at once."""

    def __init__(self, config: MediaConfig, fetcher: Fetcher, *, max_tokens: int) -> None:
        """`max_tokens`: what one prompt may have; a larger item is refused before it is decoded."""
        self._config = config
        self._fetcher = fetcher
        self._max_tokens = max_tokens
        self._slots = {kind: threading.BoundedSemaphore(DECODERS) for kind in MediaKind}
        self._smart_size: Callable[..., tuple[int, int]] = paddleocr_size if config.processor is ProcessorKind.PADDLEOCR_VL else ernie_size

    def load(self, part: MediaPart, settings: ProcessorKwargs) -> LoadedMedia:
        """`settings`: the server's and the request's; the part's own come on top. Raises `InvalidRequestError` naming the part."""
        try:
            data = self._fetcher.fetch(part.url, part.kind)
            with self._slots[part.kind]:
                return self.decode(data, part, settings)
        except MediaError as error:
            raise InvalidRequestError(f"{part.place}: the {part.kind.value} {str(error).rstrip('.')}.", param=part.place) from None

    def close(self) -> None:
        """Ends downloads within a second or so."""
        self._fetcher.close()

    def decode(self, data: bytes, part: MediaPart, settings: ProcessorKwargs) -> LoadedMedia:
        """From the file's bytes. Raises `MediaError`, and `ContextLengthError` before anything large is allocated."""
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
        height, width = self._size(*first, settings.image_min_pixels, settings.image_max_pixels)
        self._check_tokens(1, height, width, part)
        image = resized(resized(to_rgb(image), *first), height, width)
        return self._cut(part.kind, np.asarray(image)[np.newaxis])

    def _video(self, video: Video, part: MediaPart, settings: ProcessorKwargs) -> LoadedMedia:
        facts, sampling = video.facts, _sampling(settings)
        height, width = self._size(facts.height, facts.width, settings.video_min_pixels, settings.video_max_pixels)
        indices = sampling.indices(facts.num_frames, sampling.num_frames(facts.duration_seconds))
        num_frames = -(-len(indices) // self._config.temporal_merge_size) * self._config.temporal_merge_size
        self._check_tokens(num_frames, height, width, part)
        frames = np.empty((num_frames, height, width, 3), np.uint8)
        for i, frame in enumerate(video.frames(indices)):
            frames[i] = np.asarray(resized(frame, height, width))
        frames[len(indices) :] = frames[len(indices) - 1]  # the last one doubled, its stamp with it
        return self._cut(part.kind, frames)

    def _size(self, height: int, width: int, min_pixels: int | None, max_pixels: int | None) -> tuple[int, int]:
        assert min_pixels is not None and max_pixels is not None
        if min_pixels > max_pixels:
            raise MediaError(f"has contradicting settings: min_pixels ({min_pixels}) is above max_pixels ({max_pixels})")
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

    def _cut(self, kind: MediaKind, frames: np.ndarray) -> LoadedMedia:
        config = self._config
        num_frames, height, width, _ = frames.shape
        grid = (num_frames, height // config.patch_size, width // config.patch_size)
        if config.processor is ProcessorKind.PADDLEOCR_VL:
            patches = raster_order(frames, config.patch_size).tobytes()
        else:
            patches = merged_order(frames, config.patch_size, config.merge_size).tobytes()
        tokens = self._num_tokens(num_frames, height, width, kind)
        return LoadedMedia(kind, patches, grid, tokens, content_hash(kind, grid, patches))


def _sampling(settings: ProcessorKwargs) -> FrameSampling:
    assert settings.video_fps is not None and settings.video_target_frames is not None
    assert settings.video_min_frames is not None and settings.video_max_frames is not None and settings.video_frames_sample is not None
    if settings.video_fps <= 0 and settings.video_target_frames <= 0:
        return FrameSampling(frames_sample=settings.video_frames_sample)
    return FrameSampling(
        settings.video_fps, settings.video_min_frames, settings.video_max_frames, settings.video_target_frames, settings.video_frames_sample
    )
