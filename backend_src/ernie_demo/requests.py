"""Held-out cases as requests to a running server, and its answers as messages; knows no model and no score."""

from __future__ import annotations

import base64
import io
import json
import urllib.request
from fractions import Fraction
from typing import Any

import av
import numpy as np
from PIL import Image

from .cases import Case, Message

MAX_TOKENS = 400
_TIMEOUT_SECONDS = 600


def body(case: Case, enable_thinking: bool | None) -> dict[str, Any]:
    """Of POST /v1/chat/completions, greedy. `enable_thinking` None: as the server does it."""
    return {
        "model": "demo",
        "messages": [_message(message) for message in case.messages],
        "temperature": 0,
        "max_tokens": MAX_TOKENS,
        **({"tools": list(case.tools)} if case.tools else {}),
        **({} if enable_thinking is None else {"chat_template_kwargs": {"enable_thinking": enable_thinking}}),
    }


def ask(url: str, given: dict[str, Any]) -> Message:
    """The answer's message. `urllib.error.URLError` where the server cannot be asked or refuses."""
    request = urllib.request.Request(
        f"{url.rstrip('/')}/v1/chat/completions", json.dumps(given).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:
        return json.load(answer)["choices"][0]["message"]


def _message(message: Message) -> Message:
    content = message.get("content")
    return message | {"content": [_part(part) for part in content]} if isinstance(content, list) else message


def _part(part: dict[str, Any]) -> dict[str, Any]:
    if "image" in part:
        return {"type": "image_url", "image_url": {"url": _data_url("image/png", png(part["image"]))}}
    if "frames" in part:
        return {"type": "video_url", "video_url": {"url": _data_url("video/mp4", mp4(part["frames"], part["fps"]))}}
    return part


def _data_url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def mp4(frames: list[Image.Image], fps: float) -> bytes:
    """H.264; width and height must be even."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.width, stream.height = frames[0].size
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(frame), format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()
