"""Packs examples into rows of one length, and what they see into rows of patches, so that nothing of a step is padding; draws nothing.

Several conversations share a row, and several frames a row of patches; neither sees its neighbours, which the segment numbers tell.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from ernie_backend.model_config import MERGE_SIZE

from .encoder import Example

ROW_TOKENS = 512
ROW_PATCHES = 256
"""As many as the largest picture has."""
_BLOCK = MERGE_SIZE**2
_WAITING = 48
"""Examples among which the one is looked for that fills a row best."""


def packed(examples: Iterator[tuple[int, Example]], num_rows: int) -> Iterator[dict[str, np.ndarray]]:
    """Batches of `num_rows` rows from (number of the skill, example); one longer than a row is left out. The last rows may stay empty."""
    waiting: list[tuple[int, Example]] = []
    while True:
        rows = _Rows(num_rows)
        for row in range(num_rows):
            left = ROW_TOKENS
            while True:
                _refill(waiting, examples)
                fitting = [i for i, (_, example) in enumerate(waiting) if len(example.token_ids) <= left]
                if not fitting:
                    break
                best = fitting[0] if left == ROW_TOKENS else max(fitting, key=lambda i: len(waiting[i][1].token_ids))
                skill, example = waiting.pop(best)
                rows.add(row, ROW_TOKENS - left, skill, example)
                left -= len(example.token_ids)
        if not rows.num_examples:
            return
        yield rows.batch()


def _refill(waiting: list[tuple[int, Example]], examples: Iterator[tuple[int, Example]]) -> None:
    while len(waiting) < _WAITING:
        found = next(examples, None)
        if found is None:
            return
        if len(found[1].token_ids) <= ROW_TOKENS:
            waiting.append(found)


@dataclass
class _Patches:
    """Rows of patches as they fill."""

    rows: list[list[np.ndarray]] = field(default_factory=list)
    places: list[list[tuple[int, int, int]]] = field(default_factory=list)
    """Of each row's frames: first patch, height, width."""
    open_rows: list[int] = field(default_factory=list)

    def add(self, pixels: np.ndarray, height: int, width: int) -> int:
        """One frame; returns the number of its first block."""
        count = height * width
        row = next((row for row in self.open_rows if self._used(row) + count <= ROW_PATCHES), None)
        if row is None:
            row = len(self.rows)
            self.rows.append([])
            self.places.append([])
            self.open_rows.append(row)
        start = self._used(row)
        self.rows[row].append(pixels)
        self.places[row].append((start, height, width))
        if start + count > ROW_PATCHES - 16:
            self.open_rows.remove(row)
        return (row * ROW_PATCHES + start) // _BLOCK

    def _used(self, row: int) -> int:
        start, height, width = self.places[row][-1] if self.places[row] else (0, 0, 0)
        return start + height * width


class _Rows:
    """One batch as it fills."""

    def __init__(self, num_rows: int) -> None:
        shape = (num_rows, ROW_TOKENS)
        self.ids = np.zeros(shape, np.int32)
        self.segments = np.zeros(shape, np.int16)  # 0: padding
        self.positions = np.zeros((3, *shape), np.int32)
        self.is_visual = np.zeros(shape, bool)
        self.label_rows: list[np.ndarray] = []
        self.label_skills: list[np.ndarray] = []
        self.labels: list[np.ndarray] = []
        self.label_cases: list[np.ndarray] = []
        self.patches = _Patches()
        self.first_blocks: list[np.ndarray] = []
        self.second_blocks: list[np.ndarray] = []
        self.media_rows: list[np.ndarray] = []
        self.num_examples = 0

    def add(self, row: int, start: int, skill: int, example: Example) -> None:
        count = len(example.token_ids)
        place = slice(start, start + count)
        self.ids[row, place] = example.token_ids
        self.segments[row, place] = self.segments[row].max() + 1
        self.positions[:, row, place] = example.positions
        self.is_visual[row, place] = example.is_visual
        first = row * ROW_TOKENS + start
        self.label_rows.append(np.arange(first + example.prompt_len - 1, first + count - 1))
        self.labels.append(np.array(example.token_ids[example.prompt_len :]))
        self.label_skills.append(np.full(count - example.prompt_len, skill))
        self.label_cases.append(np.full(count - example.prompt_len, self.num_examples))
        self.num_examples += 1
        for item in example.media:
            frames, height, width = item.grid
            pixels = np.frombuffer(item.patches, np.uint8).reshape(frames, height * width, -1)
            blocks = [self.patches.add(frame, height, width) + np.arange(height * width // _BLOCK) for frame in pixels]
            self.first_blocks += blocks[::2]
            self.second_blocks += blocks[1::2] if frames > 1 else blocks
            self.media_rows.append(first + item.start + np.arange(item.num_tokens))

    def batch(self) -> dict[str, np.ndarray]:
        flat = self.is_visual.reshape(-1)
        visual = np.flatnonzero(flat)
        return {
            "ids": self.ids,
            "segments": self.segments,
            "positions": self.positions,
            "text_rows": np.flatnonzero(~flat),
            "visual_rows": visual,
            "labels": _joined(self.labels),
            "label_rows": _joined(self.label_rows),
            "label_skills": _joined(self.label_skills),
            "label_cases": _joined(self.label_cases),
            "media_rows": _joined(self.media_rows),
            "first_blocks": _joined(self.first_blocks),
            "second_blocks": _joined(self.second_blocks),
            "num_examples": np.array(self.num_examples),
            **self._seen(),
        }

    def _seen(self) -> dict[str, np.ndarray]:
        rows = self.patches.rows
        pixels = np.zeros((len(rows), ROW_PATCHES, rows[0][0].shape[1] if rows else 588), np.uint8)
        segments = np.zeros((len(rows), ROW_PATCHES), np.int16)
        where = np.zeros((2, len(rows), ROW_PATCHES), np.int16)
        for row, (frames, places) in enumerate(zip(rows, self.patches.places, strict=True)):
            for number, (frame, (start, height, width)) in enumerate(zip(frames, places, strict=True), 1):
                place = slice(start, start + height * width)
                pixels[row, place], segments[row, place] = frame, number
                for axis, plane in enumerate(np.indices((height, width))):
                    blocks = plane.reshape(height // MERGE_SIZE, MERGE_SIZE, width // MERGE_SIZE, MERGE_SIZE).swapaxes(1, 2)
                    where[axis, row, place] = blocks.reshape(-1)
        return {"pixels": pixels, "patch_segments": segments, "patch_positions": where}


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, np.int64)
