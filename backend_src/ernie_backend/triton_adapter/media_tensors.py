"""Images and videos as the tensors between preprocess and engine: `media` (JSON) and `patches` (bytes). Knows no pixel's meaning."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..media.patches import content_hash
from ..protocol import MediaItem, MediaKind
from .tensors import read_text, text_tensor


def media_json(items: Sequence[MediaItem]) -> str:
    """All but the patches; empty for no items."""
    fields = [
        {
            "kind": item.kind.value,
            "grid": item.grid,
            "start": item.start,
            "num_tokens": item.num_tokens,
            "content_hash": item.content_hash.hex(),
            "num_bytes": len(item.patches),
        }
        for item in items
    ]
    return json.dumps(fields, separators=(",", ":")) if fields else ""


def media_tensors(pb_utils: Any, items: Sequence[MediaItem]) -> list[Any]:
    """The two tensors; none for no items."""
    if not items:
        return []
    patches = np.frombuffer(b"".join(item.patches for item in items), np.uint8)
    return [text_tensor(pb_utils, "media", media_json(items)), pb_utils.Tensor("patches", patches)]


def read_media(pb_utils: Any, request: Any) -> tuple[MediaItem, ...]:
    """The items of a request whose seal has been checked. ValueError if the patches are not those that the sealed hashes name."""
    text = read_text(pb_utils, request, "media")
    if text is None:
        return ()
    patches = pb_utils.get_input_tensor_by_name(request, "patches").as_numpy().ravel()
    items, offset = [], 0
    for given in json.loads(text):
        data = patches[offset : offset + given["num_bytes"]].tobytes()
        offset += given["num_bytes"]
        kind, grid = MediaKind(given["kind"]), (given["grid"][0], given["grid"][1], given["grid"][2])
        named = bytes.fromhex(given["content_hash"])
        if content_hash(kind, grid, data) != named:
            raise ValueError("these patches are not the ones that preprocess has cut")
        items.append(MediaItem(kind, data, grid, given["start"], given["num_tokens"], named))
    return tuple(items)
