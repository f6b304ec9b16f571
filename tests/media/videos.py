"""Small videos whose frames say their own number, by their brightness."""

from __future__ import annotations

import io

import av
import numpy as np
from PIL import Image

STEP = 2
"""Grey levels from one frame to the next."""


def video(
    kind: str = "mp4",
    codec: str = "mpeg4",
    num_frames: int = 90,
    *,
    rate: int = 30,
    height: int = 96,
    width: int = 128,
    **options: str,
) -> bytes:
    """Frame i is of grey STEP · i (modulo 256)."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width = height, width
        stream.pix_fmt = {"gif": "rgb8", "qtrle": "rgb24"}.get(codec, "yuv420p")
        for i in range(num_frames):
            frame = av.VideoFrame.from_ndarray(np.full((height, width, 3), STEP * i % 256, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


def number_of(frame: Image.Image) -> float:
    """Which frame it is, to within what the codec loses; read where no time stamp is drawn."""
    return float(np.asarray(frame)[-8:, -8:].mean()) / STEP
