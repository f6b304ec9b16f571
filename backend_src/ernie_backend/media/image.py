"""From an image file to RGB pixels of the size that the model wants; knows neither patches nor where the file came from.

Pillow reads the header first; size limits are held against it before a single pixel is decoded. Of an animation, the first picture counts.
EXIF orientation is not applied: the models were trained without.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..protocol import MediaKind
from .sniff import HEAD_BYTES, MediaError, check_head, image_format

MAX_IMAGE_PIXELS = 2**30 // 12
"""89,478,485, where Pillow begins to warn of decompression bombs: 256 MiB as RGB."""

_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
_WHITE = (255, 255, 255)


def open_image(data: bytes) -> Image.Image:
    """The image with its header read and nothing decoded. `MediaError` if it is none, or too large to be decoded."""
    check_head(data[:HEAD_BYTES], MediaKind.IMAGE)
    try:
        image = Image.open(io.BytesIO(data), formats=[image_format(data[:HEAD_BYTES]) or ""])
    except Image.DecompressionBombError:
        raise _too_many_pixels() from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, OverflowError, IndexError, KeyError, TypeError, MemoryError):
        raise _broken() from None
    if image.width * image.height > MAX_IMAGE_PIXELS:
        raise _too_many_pixels()
    if not image.width or not image.height:
        raise _broken()
    return image


def to_rgb(image: Image.Image) -> Image.Image:
    """Decode it: 16-bit greys to their upper 8 bits, transparency onto white. `MediaError` if it is truncated or broken."""
    try:
        image.load()
        if image.mode in _SIXTEEN_BITS:
            image = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8), "L")
        if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            image = _on_white(image.convert("RGBA"))
        return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, OverflowError, IndexError, KeyError, TypeError, EOFError, MemoryError):
        raise _broken() from None


def resized(image: Image.Image, height: int, width: int) -> Image.Image:
    """Bicubic, on 8 bits; an image of this size is left as it is."""
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BICUBIC)


def _on_white(image: Image.Image) -> Image.Image:
    if image.getchannel("A").getextrema()[0] == 255:
        return image
    white = Image.new("RGBA", image.size, _WHITE)
    white.paste(image, (0, 0), image)
    return white


def _too_many_pixels() -> MediaError:
    return MediaError(f"has more than {MAX_IMAGE_PIXELS} pixels")


def _broken() -> MediaError:
    return MediaError("is truncated or broken")
