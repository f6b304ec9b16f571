"""To which size an image or frame is brought before it is cut into patches: integers and roots only, knows no pixel.

Rounding is Python's, half to even. Where Paddle's and transformers' rules differ, the former hold here.
"""

from __future__ import annotations

import math

from .sniff import MediaError

MAX_RATIO = 200
"""Of the longer side to the shorter one."""


def ernie_size(height: int, width: int, *, factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """(height, width) for ERNIE-4.5-VL, both multiples of `factor`. A ratio beyond 200 is squeezed (transformers refuses it)."""
    if max(height, width) > MAX_RATIO * min(height, width):
        short = max(factor, round(min(height, width) / factor) * factor)
        long = math.floor(short * MAX_RATIO / factor) * factor
        height, width = (long, short) if height > width else (short, long)
    rounded = max(factor, round(height / factor) * factor), max(factor, round(width / factor) * factor)
    return _within(height, width, rounded, factor, min_pixels, max_pixels, least=0)


def paddleocr_size(height: int, width: int, *, factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """(height, width) for PaddleOCR-VL, both multiples of `factor`. `MediaError` if the ratio is beyond 200."""
    if height < factor:
        width, height = round(width * factor / height), factor
    if width < factor:
        height, width = round(height * factor / width), factor
    ratio = max(height, width) / min(height, width)
    if ratio > MAX_RATIO:
        raise MediaError(f"is too long: absolute aspect ratio must be smaller than {MAX_RATIO}, got {ratio}")
    rounded = round(height / factor) * factor, round(width / factor) * factor
    return _within(height, width, rounded, factor, min_pixels, max_pixels, least=factor)


def _within(
    height: int, width: int, rounded: tuple[int, int], factor: int, min_pixels: int, max_pixels: int, *, least: int
) -> tuple[int, int]:
    """`rounded` if its area lies within the limits, else the original shrunk or grown by one ratio until it does."""
    new_height, new_width = rounded
    if new_height * new_width > max_pixels:
        beta = math.sqrt(height * width / max_pixels)
        new_height = max(least, math.floor(height / beta / factor) * factor)
        new_width = max(least, math.floor(width / beta / factor) * factor)
    elif new_height * new_width < min_pixels:
        beta = math.sqrt(min_pixels / (height * width))
        new_height = math.ceil(height * beta / factor) * factor
        new_width = math.ceil(width * beta / factor) * factor
    if not min_pixels <= new_height * new_width <= max_pixels:
        raise MediaError(
            f"cannot be resized to between {min_pixels} and {max_pixels} pixels: at its shape, with sides that are multiples of {factor}, "
            f"it would be {new_height} × {new_width} (height × width). Raise max_pixels, or lower min_pixels"
        )
    return new_height, new_width
