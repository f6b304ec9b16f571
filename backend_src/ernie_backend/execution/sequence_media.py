"""Where the images and videos of one sequence stand: three positions per token, and which tokens are visual; encodes nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..model_config import MERGE_SIZE, ModelConfig
from ..protocol import MediaItem


def merged_grid(item: MediaItem, config: ModelConfig) -> tuple[int, int, int]:
    """Frames, rows and columns of an item's tokens; their product is their number."""
    frames, height, width = item.grid
    pairs = frames // MERGE_SIZE if config.architecture == "vl" and frames > 1 else frames
    return pairs, height // MERGE_SIZE, width // MERGE_SIZE


class SequenceMedia:
    """Positions and kinds of a prompt's tokens. The prompt's promises (`MediaItem`) are asserted, not repaired.

    Visual are the placeholders and the delimiters right around them; whatever is generated is text. Text takes one position per token, on
    all three axes. An item takes the positions of its grid (frame, row, column, from the current position on), and the next token stands
    behind the largest of them: as in training, where transformers forgets the frames.
    """

    def __init__(self, items: Sequence[MediaItem], prompt_token_ids: Sequence[int], config: ModelConfig) -> None:
        assert config.vision is not None
        self.items = tuple(items)
        num_tokens = len(prompt_token_ids)
        self.prompt_positions = np.empty((3, num_tokens), np.int32)
        self.is_visual = np.zeros(num_tokens, bool)
        done = position = 0
        for item in self.items:
            frames, rows, columns = merged_grid(item, config)
            end = item.start + item.num_tokens
            assert done <= item.start and end <= num_tokens and item.num_tokens == frames * rows * columns > 0, item.grid
            assert len(item.patches) == item.grid[0] * item.grid[1] * item.grid[2] * config.vision.patch_width, item.grid
            position = self._text(done, item.start, position)
            self.prompt_positions[:, item.start : end] = np.indices((frames, rows, columns)).reshape(3, -1) + position
            position += max(frames, rows, columns)
            self.is_visual[item.start : end] = True
            for beside in (item.start - 1, end):
                if 0 <= beside < num_tokens and prompt_token_ids[beside] in config.media_delimiter_ids:
                    self.is_visual[beside] = True
            done = end
        self.visual_end = int(np.flatnonzero(self.is_visual)[-1]) + 1 if self.items else 0
        position = self._text(done, num_tokens, position)
        self.shift = position - num_tokens
        """Position of an output token less its index."""

    def _text(self, start: int, stop: int, position: int) -> int:
        self.prompt_positions[:, start:stop] = np.arange(position, position + stop - start)
        return position + stop - start

    def positions(self, start: int, stop: int) -> np.ndarray:
        """[3, stop − start] int32, of prompt and output tokens."""
        num_tokens = len(self.is_visual)
        prompt = self.prompt_positions[:, start:stop]
        output = np.arange(max(start, num_tokens), max(stop, num_tokens), dtype=np.int32) + np.int32(self.shift)
        return np.concatenate([prompt, np.broadcast_to(output, (3, len(output)))], axis=1)

    def visual(self, start: int, stop: int) -> np.ndarray:
        """[stop − start] bool: output tokens are text."""
        found = np.zeros(stop - start, bool)
        prompt = self.is_visual[start:stop]
        found[: len(prompt)] = prompt
        return found
