"""Who holds which KV-cache block, and which free blocks still hold a known prefix; knows block ids only, no sequences.

A block is free (reference count 0) or held by one or more sequences. A free block keeps its content and its hash until it is handed out
again, so that a later prompt can find it; the least recently freed block goes first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable


class BlockPool:
    """`num_blocks` blocks with ids 0 … num_blocks − 1."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._ref_counts = [0] * num_blocks
        self._hash_of: list[bytes | None] = [None] * num_blocks
        self._block_of: dict[bytes, int] = {}
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_used(self) -> int:
        return self.num_blocks - len(self._free)

    def is_free(self, block_id: int) -> bool:
        return self._ref_counts[block_id] == 0

    def allocate(self, count: int) -> list[int] | None:
        """`count` blocks of unknown content with one reference each, or None if there are not that many."""
        if count > len(self._free):
            return None
        blocks = []
        for _ in range(count):
            block_id, _ = self._free.popitem(last=False)
            self.forget([block_id])
            self._ref_counts[block_id] = 1
            blocks.append(block_id)
        return blocks

    def acquire(self, block_ids: Iterable[int]) -> None:
        """One more reference to each block; a free block leaves the free list with its content."""
        for block_id in block_ids:
            if self._ref_counts[block_id] == 0:
                del self._free[block_id]
            self._ref_counts[block_id] += 1

    def release(self, block_ids: Iterable[int]) -> None:
        """One reference less to each. Call with the blocks from last to first: a prefix's end is then reused before its start."""
        for block_id in block_ids:
            assert self._ref_counts[block_id] > 0, f"block {block_id} released twice"
            self._ref_counts[block_id] -= 1
            if self._ref_counts[block_id] == 0:
                self._free[block_id] = None
                if self._hash_of[block_id] is None:
                    self._free.move_to_end(block_id, last=False)  # nothing to find in it: reuse it first

    def remember(self, block_id: int, block_hash: bytes) -> None:
        """The block now holds the full block with this hash. The first block of a content wins; a twin stays unnamed."""
        if self._hash_of[block_id] is None and block_hash not in self._block_of:
            self._hash_of[block_id] = block_hash
            self._block_of[block_hash] = block_id

    def find(self, block_hash: bytes) -> int | None:
        return self._block_of.get(block_hash)

    def forget(self, block_ids: Iterable[int]) -> None:
        """What these blocks hold is not to be found any more."""
        for block_id in block_ids:
            block_hash = self._hash_of[block_id]
            if block_hash is not None:
                del self._block_of[block_hash]
                self._hash_of[block_id] = None

    def forget_all(self) -> None:
        """Drop every remembered prefix (after a failed step the contents cannot be trusted)."""
        self._block_of.clear()
        self._hash_of = [None] * self.num_blocks

    def check_invariants(self) -> None:
        """Free list ⇔ reference count 0; hash tables are each other's inverse."""
        assert set(self._free) == {b for b, refs in enumerate(self._ref_counts) if refs == 0}
        assert all(refs >= 0 for refs in self._ref_counts)
        assert self._block_of == {h: b for b, h in enumerate(self._hash_of) if h is not None}
