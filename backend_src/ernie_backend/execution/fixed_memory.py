"""Arrays of the host and memory of the GPU at fixed addresses for them, sent in one copy; knows not what they hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ernie_kernels import xp
from ernie_kernels.xp import Tensor

_ALIGNED_WORDS = 4
"""Every array starts at a multiple of 16 bytes, for which kernels have faster loads."""


@dataclass(frozen=True)
class _Way:
    """The first words of the memory, from the host to the device."""

    staging: np.ndarray
    pinned: list[Tensor]
    """Two, since one may still be on its way. Each of just this size: page-locked tensors are not to be sliced."""
    pinned_arrays: list[np.ndarray]
    copied: list[Any]
    """The events after which each has been read."""
    device: Tensor

    @classmethod
    def of(cls, staging: np.ndarray, device: Tensor, words: int) -> _Way:
        pinned = [xp.pinned([words], "int32") for _ in range(2)]
        copied = [xp.event() for _ in pinned]
        for event in copied:
            event.record()
        return cls(staging[:words], pinned, [xp.host_view(tensor) for tensor in pinned], copied, device[:words])


class FixedMemory:
    """Host arrays, page-locked copies of them, and the device's memory, all with one layout."""

    def __init__(self, shapes: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
        """Name → (dtype, shape). Zeroed. Arrays of 64 bits stand first (Paddle misplaces a view of them within others), then those of 32.
        The last one has two axes; a copy may end behind any of its rows."""
        words = {name: math.prod(shape) * np.dtype(dtype).itemsize // 4 for name, (dtype, shape) in shapes.items()}
        aligned = (-(-count // _ALIGNED_WORDS) * _ALIGNED_WORDS for count in words.values())
        starts = dict(zip(words, np.cumsum([0, *aligned]).tolist(), strict=False))
        last = list(shapes)[-1]
        self._header_words, self._row_words = starts[last], words[last] // shapes[last][1][0]
        self._staging = np.zeros(starts[last] + words[last], np.int32)
        self._device = xp.zeros([len(self._staging)], "int32")
        self._turn = 0
        self._ways: dict[int, _Way] = {}
        """By number of rows."""
        self.host = {n: self._staging[starts[n] : starts[n] + words[n]].view(dtype).reshape(shape) for n, (dtype, shape) in shapes.items()}
        self.device: dict[str, Tensor] = {
            n: xp.reshape(xp.bitcast(self._device[starts[n] : starts[n] + words[n]], dtype), shape) for n, (dtype, shape) in shapes.items()
        }

    def send(self, num_rows: int) -> None:
        """Start the copy of every array, of the last one its first `num_rows` rows. Waits while the copy before the last one is still on
        its way, which it is not where steps are collected in time (`ModelRunner.launch`)."""
        way = self._ways.get(num_rows)
        if way is None:
            way = self._ways[num_rows] = _Way.of(self._staging, self._device, self._header_words + num_rows * self._row_words)
        self._turn = 1 - self._turn
        way.copied[self._turn].synchronize()
        way.pinned_arrays[self._turn][:] = way.staging
        xp.copy_(way.device, way.pinned[self._turn])
        way.copied[self._turn].record()
