"""Decoded images and videos, kept by their file's content and how they were processed; knows neither URLs nor decoders."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import astuple

from ..media_fields import MediaPart, ProcessorKwargs
from .patches import LoadedMedia

_ENTRY_BYTES = 1024
"""What an item costs besides its patches; more than enough."""


class ProcessorCache:
    """The least recently used go first. For several threads at once; two that miss the same file both decode it."""

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity_bytes = capacity_bytes
        self._num_bytes = 0
        self._entries: OrderedDict[bytes, LoadedMedia] = OrderedDict()
        self._lock = threading.Lock()

    def processed(self, data: bytes, part: MediaPart, settings: ProcessorKwargs, process: Callable[[], LoadedMedia]) -> LoadedMedia:
        """The item of the file `data`; `process` makes it if it is not here. What `process` raises is not kept."""
        effective = part.settings.over(settings)
        if self._capacity_bytes <= 0 or effective.video_frames_sample == "rand":  # which takes other frames every time
            return process()
        key = _key(data, part, effective)
        with self._lock:
            found = self._entries.get(key)
            if found is not None:
                self._entries.move_to_end(key)
                return found
        made = process()
        with self._lock:
            if key not in self._entries:
                self._entries[key] = made
                self._num_bytes += _size(made)
            while self._num_bytes > self._capacity_bytes:
                self._num_bytes -= _size(self._entries.popitem(last=False)[1])
        return made


def _key(data: bytes, part: MediaPart, effective: ProcessorKwargs) -> bytes:
    digest = hashlib.blake2b(data, digest_size=32, person=b"ernie-files")
    digest.update(repr((part.kind.value, part.width, part.height, astuple(effective))).encode())
    return digest.digest()


def _size(item: LoadedMedia) -> int:
    return len(item.patches) + _ENTRY_BYTES
