"""Cuts pixels into patches in the model's order and hashes what the encoder will see; resizes and decodes nothing."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from ..protocol import MediaKind

HASH_BYTES = 16


@dataclass(frozen=True)
class LoadedMedia:
    """A part of a message as the engine takes it, but for its place in the prompt."""

    kind: MediaKind
    patches: bytes
    """uint8 [t · h · w, 3 · patch²]."""
    grid: tuple[int, int, int]
    """Frames, then height and width in patches."""
    num_tokens: int
    content_hash: bytes


def merged_order(frames: np.ndarray, patch: int, merge: int) -> np.ndarray:
    """[T, H, W, 3] → [T · h · w, 3 · patch²], h = H / patch: the merge² patches of a block one after another (ERNIE-4.5-VL)."""
    t, height, width, channels = frames.shape
    h, w = height // patch, width // patch
    blocks = frames.reshape(t, h // merge, merge, patch, w // merge, merge, patch, channels)
    return blocks.transpose(0, 1, 4, 2, 5, 7, 3, 6).reshape(t * h * w, channels * patch * patch)


def raster_order(frames: np.ndarray, patch: int) -> np.ndarray:
    """[T, H, W, 3] → [T · h · w, 3 · patch²], row by row (PaddleOCR-VL)."""
    t, height, width, channels = frames.shape
    h, w = height // patch, width // patch
    return frames.reshape(t, h, patch, w, patch, channels).transpose(0, 1, 3, 5, 2, 4).reshape(t * h * w, channels * patch * patch)


def content_hash(kind: MediaKind, grid: tuple[int, int, int], patches: bytes) -> bytes:
    """Of the pixels as the encoder gets them, and their arrangement: equal hashes, equal rows, wherever the file came from."""
    digest = hashlib.blake2b(patches, digest_size=HASH_BYTES, person=b"ernie-media")
    digest.update(f"{kind.value} {grid[0]} {grid[1]} {grid[2]}".encode("ascii"))
    return digest.digest()
