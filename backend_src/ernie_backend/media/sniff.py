"""What a file is by its first bytes; trusts no name and no Content-Type, and decodes nothing."""

from __future__ import annotations

from ..protocol import MediaKind

HEAD_BYTES = 16
"""As many decide."""

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""Pillow's names. Formats with a decoder of their own history of holes (JPEG 2000, TIFF, EPS, …) stay out."""
VIDEO_FORMATS = ("MP4", "WebM", "MOV", "GIF")

_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
"""What an MP4 or QuickTime file may begin with, after four bytes of length."""


class MediaError(Exception):
    """Why an image or video cannot be had; the text completes "messages[0].content[1]: the image …" and says nothing internal."""


def image_format(head: bytes) -> str | None:
    """One of `IMAGE_FORMATS`, or None."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if head.startswith(b"BM"):
        return "BMP"
    return None


def video_container(head: bytes) -> str | None:
    """FFmpeg's name of the demuxer (`mov` reads MP4, too), or None. It is given by name, so that FFmpeg cannot guess a playlist."""
    if head[4:8] in _BOXES:
        return "mov"
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return "matroska"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    return None


def check_head(head: bytes, kind: MediaKind) -> None:
    """`MediaError` unless the bytes begin a file of this kind."""
    if kind is MediaKind.IMAGE and image_format(head) is None:
        raise MediaError(f"is not an image in one of the formats {', '.join(IMAGE_FORMATS)}")
    if kind is MediaKind.VIDEO and video_container(head) is None:
        raise MediaError(f"is not a video in one of the formats {', '.join(VIDEO_FORMATS)}")
