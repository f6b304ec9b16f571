"""Rows that the encoder made of images and videos, kept by content hash within a bound; knows no model and no batch."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from ernie_kernels.xp import Tensor

from ..protocol import MediaItem


@dataclass
class _Entry:
    rows: Tensor  # [num_tokens, hidden]
    nbytes: int
    holders: set[int] = field(default_factory=set)
    """Sequences that have begun to read it and are not through."""


class EncoderCache:
    """The least recently used go first. What a sequence holds stays, even beyond the bound: its next chunk must find it again."""

    def __init__(self, capacity_bytes: int, row_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self.row_bytes = row_bytes
        self.num_bytes = 0
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()

    def hold(self, item: MediaItem, sequence_id: int, encode: Callable[[MediaItem], Tensor]) -> Tensor:
        """The item's rows, encoded if they are not here; they stay until the sequence releases them."""
        entry = self._entries.get(item.content_hash)
        if entry is None:
            entry = _Entry(encode(item), item.num_tokens * self.row_bytes)
            assert entry.rows.shape[0] == item.num_tokens, (entry.rows.shape, item.grid)
            self._entries[item.content_hash] = entry
            self.num_bytes += entry.nbytes
        self._entries.move_to_end(item.content_hash)
        entry.holders.add(sequence_id)
        self._shrink()
        return entry.rows

    def release(self, content_hash: bytes, sequence_id: int) -> None:
        """The sequence is through with it, or has ended."""
        entry = self._entries.get(content_hash)
        if entry is not None:
            entry.holders.discard(sequence_id)
            self._shrink()

    def clear(self) -> None:
        """Drop all that nobody holds."""
        capacity, self.capacity_bytes = self.capacity_bytes, 0
        self._shrink()
        self.capacity_bytes = capacity

    def _shrink(self) -> None:
        for content_hash in list(self._entries):
            if self.num_bytes <= self.capacity_bytes:
                return
            if not self._entries[content_hash].holders:
                self.num_bytes -= self._entries.pop(content_hash).nbytes

    def check_invariants(self) -> None:
        """The bound is kept but for what is held."""
        assert self.num_bytes == sum(entry.nbytes for entry in self._entries.values())
        assert self.num_bytes <= self.capacity_bytes or all(entry.holders for entry in self._entries.values())
