"""From a video file to the chosen frames as RGB images with their time stamps; knows neither patches nor where the file came from.

FFmpeg (PyAV) is told the container by name and gets no protocol but our bytes: it can neither guess a playlist nor open anything else.
A first pass reads packets only, so that frames are known by number, time and place before they are decoded.
"""

from __future__ import annotations

import io
import time
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import av
from av.container import InputContainer
from av.video.stream import VideoStream
from PIL import Image

from ..protocol import MediaKind
from .frames import draw_stamp, time_stamp
from .sniff import HEAD_BYTES, MediaError, check_head, video_container

MAX_FRAME_PIXELS = 7680 * 4320
MAX_PACKETS = 2_000_000
"""Nine hours at 60 frames per second."""
DECODE_SECONDS = 60.0
CODECS = frozenset(
    ("h264", "hevc", "vp8", "vp9", "av1", "libdav1d", "libvpx", "libvpx-vp9", "mpeg4", "mpeg2video", "mpeg1video", "mjpeg", "gif")
)
"""What MP4, WebM, MOV and GIF files hold; FFmpeg's many other decoders stay out of reach."""
_MAY_BE_TURNED = frozenset(("mov", "mp4"))
_TURNS = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}
"""Counter-clockwise, for FFmpeg and Pillow alike."""
_SIDEWAYS = (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_270)


@dataclass(frozen=True)
class VideoFacts:
    """What the packets say; of what is decoded, only which way up the first frame is."""

    width: int
    height: int
    """As it is shown, turned upright."""
    duration_seconds: float
    times: tuple[int, ...]
    """Of each frame, ascending, in the stream's own unit."""
    key_times: tuple[int, ...]
    """Of the frames that decoding can begin at."""

    @property
    def num_frames(self) -> int:
        return len(self.times)


class Video:
    """An open video file. Use as `with open_video(data) as video`."""

    def __init__(self, container: InputContainer) -> None:
        self._container = container
        if not container.streams.video:
            raise MediaError("has no video track")
        self._stream: VideoStream = container.streams.video[0]
        codec = self._stream.codec_context
        if codec is None or codec.name not in CODECS:
            raise MediaError("is encoded in a way that this server does not decode (give H.264, H.265, VP8, VP9 or AV1)")
        codec.thread_count = 1  # many videos are decoded at once; threads per video would only compete
        if codec.width * codec.height > MAX_FRAME_PIXELS:
            raise MediaError(f"has frames of more than {MAX_FRAME_PIXELS} pixels")
        self.facts = self._read_facts()
        self._turn = self._upright()
        if self._turn in _SIDEWAYS:
            self.facts = replace(self.facts, width=self.facts.height, height=self.facts.width)

    def frames(self, indices: list[int]) -> Iterator[Image.Image]:
        """The frames of these ascending numbers, RGB, each stamped with its time. `MediaError` if one cannot be decoded."""
        end = time.monotonic() + DECODE_SECONDS
        facts = self.facts
        for index, image in zip(indices, self._decoded([facts.times[i] for i in indices], end), strict=True):
            if self._turn is not None:
                image = image.transpose(self._turn)
            draw_stamp(image, time_stamp(index * facts.duration_seconds / facts.num_frames))
            yield image

    def _read_facts(self) -> VideoFacts:
        times: list[int] = []
        keys: list[int] = []
        last_duration = 0
        for packet in self._container.demux(self._stream):
            if packet.size == 0 or packet.is_discard:
                continue
            if len(times) >= MAX_PACKETS:
                raise MediaError(f"has more than {MAX_PACKETS} frames")
            when = packet.pts if packet.pts is not None else packet.dts
            if when is None:
                raise _broken()
            times.append(when)
            last_duration = packet.duration or last_duration
            if packet.is_keyframe:
                keys.append(when)
        if not times:
            raise MediaError("has no frames")
        times.sort()
        keys.sort()
        codec, rate = self._stream.codec_context, self._stream.average_rate
        if codec.width < 1 or codec.height < 1:
            raise _broken()
        base = float(self._stream.time_base or 0)
        seconds = len(times) / float(rate) if rate else (times[-1] - times[0] + last_duration) * base
        return VideoFacts(codec.width, codec.height, seconds, tuple(times), tuple(keys))

    def _upright(self) -> Image.Transpose | None:
        """How frames are turned to be shown: telephones film sideways, and say so beside the frames. FFmpeg tells it with each of them.

        Mirrors and angles between count as nothing, as for FastDeploy's decord."""
        if not _MAY_BE_TURNED & set(self._container.format.name.split(",")):
            return None
        try:
            frame = next(self._from_key_before(self.facts.times[0]), None)
        except av.FFmpegError:
            return None  # frames that are asked for may lie behind what is broken
        return None if frame is None else _TURNS.get(frame.rotation % 360)

    def _decoded(self, wanted: list[int], end: float) -> Iterator[Image.Image]:
        """One image for each of these times: of the frame shown then."""
        position = 0
        frames = self._from_key_before(wanted[0])
        at = -1
        for when in wanted:
            position = bisect_right(self.facts.key_times, when) - 1
            if position >= 0 and at >= 0 and self.facts.key_times[position] > at:
                frames = self._from_key_before(when)
            frame = None
            for frame in frames:
                if time.monotonic() > end:
                    raise MediaError(f"takes more than {DECODE_SECONDS:g} s to decode")
                if frame.pts is None or frame.pts >= when:
                    break
            if frame is None:
                raise _broken()
            at = frame.pts if frame.pts is not None else when
            if frame.width * frame.height > MAX_FRAME_PIXELS:
                raise MediaError(f"has frames of more than {MAX_FRAME_PIXELS} pixels")
            yield frame.to_image()

    def _from_key_before(self, when: int) -> Iterator[Any]:
        key = bisect_right(self.facts.key_times, when) - 1
        self._container.seek(self.facts.key_times[key] if key >= 0 else self.facts.times[0], stream=self._stream, backward=True)
        self._stream.codec_context.flush_buffers()
        return self._container.decode(self._stream)


@contextmanager
def open_video(data: bytes) -> Iterator[Video]:
    """The video with its packets read and nothing decoded. `MediaError` if it is none, has no frames or goes beyond a limit."""
    check_head(data[:HEAD_BYTES], MediaKind.VIDEO)
    name = video_container(data[:HEAD_BYTES])
    try:
        with av.open(io.BytesIO(data), "r", format=name, options={"protocol_whitelist": "", "enable_drefs": "0"}) as container:
            yield Video(container)
    except (av.FFmpegError, ValueError, OverflowError, EOFError, MemoryError):
        raise _broken() from None


def _broken() -> MediaError:
    return MediaError("is truncated or broken")
