"""A hostile server, and pictures."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.media.hostile_server import Answer, HostileServer

ServerOf = Callable[..., HostileServer]


@pytest.fixture
def serve() -> Iterator[ServerOf]:
    """Starts a server that answers as given; all end with the test."""
    servers: list[HostileServer] = []

    def start(answers: dict[str, Answer], **settings: Any) -> HostileServer:
        servers.append(HostileServer(answers, **settings))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    """Smooth enough to look like one, noisy enough that a wrong pixel shows."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (max(2, height // 16), max(2, width // 16), 3), np.uint8)
    image = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return Image.fromarray(np.clip(image + random.integers(-20, 21, image.shape), 0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "PNG", **settings: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()
