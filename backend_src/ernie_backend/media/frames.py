"""Which frames of a video are taken, and the time stamp drawn on them; decodes nothing."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .contradictions import frame_contradiction
from .sniff import MediaError

FONT = Path(__file__).with_name("fonts") / "Roboto-Regular.ttf"
_SHARE = 0.1
"""Of the frame's shorter side: the font's size; of the font's size: the stroke's width."""


@dataclass(frozen=True)
class FrameSampling:
    """FastDeploy's settings. `target_frames` before min and max before `fps`; −1 switches one off."""

    fps: float = 2
    min_frames: int = 16
    max_frames: int = 180
    target_frames: int = -1
    frames_sample: str = "leading"
    """FastDeploy's default; PaddleFormers has `middle`."""

    def num_frames(self, duration_seconds: float) -> int:
        """How many frames to take, if the video has as many. `MediaError` for settings that contradict each other."""
        low, high = self.min_frames, self.max_frames
        found = frame_contradiction(self.fps, self.target_frames, low, high)
        if found is not None:
            raise MediaError(found.text)
        if self.target_frames > 0:
            return self.target_frames
        number = int(duration_seconds * self.fps)
        number = max(number, low) if low > 0 else number
        return max(1, min(number, high) if high > 0 else number)

    def indices(self, num_frames: int, wanted: int) -> list[int]:
        """Ascending, `min(wanted, num_frames)` of them: one of each of as many equal stretches."""
        wanted = min(wanted, num_frames)
        borders = np.linspace(0, num_frames, wanted + 1).astype(int).tolist()
        stretches = list(pairwise(borders))
        if self.frames_sample == "middle":
            return [(begin + end - 1) // 2 for begin, end in stretches]
        if self.frames_sample == "rand":
            draw = random.Random(num_frames)  # the same video gives the same frames, or no cache would ever hit
            return [draw.randrange(begin, end) for begin, end in stretches]
        return [begin for begin, _ in stretches]


def time_stamp(seconds: float) -> str:
    """`time: HH:MM:SS.ss`; 59.999 s is 00:00:60.00, as the models saw it in training."""
    minutes = int(seconds // 60)
    return f"time: {minutes // 60:02d}:{minutes % 60:02d}:{seconds % 60:05.2f}"


def draw_stamp(frame: Image.Image, text: str) -> None:
    """In place: black with a white rim, in the upper left corner."""
    size = int(min(frame.size) * _SHARE)
    if size < 1:  # a frame below 10 pixels: nothing could be read on it
        return
    ImageDraw.Draw(frame).text((0, 0), text, font=_font(size), fill=(0, 0, 0), stroke_width=int(size * _SHARE), stroke_fill=(255, 255, 255))


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(FONT), size)
