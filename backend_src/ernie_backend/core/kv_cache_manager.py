"""Which blocks a sequence holds: prefix hits, growth, release. Knows token ids and block ids, no tensors and no policy."""

from __future__ import annotations

import hashlib
from array import array

from .block_pool import BlockPool
from .request import Sequence


class KVCacheManager:
    """Hands blocks of a `BlockPool` to sequences and finds full blocks again by chained hash."""

    def __init__(self, num_blocks: int, block_size: int, *, prefix_caching: bool) -> None:
        self.pool = BlockPool(num_blocks)
        self.block_size = block_size
        self.prefix_caching = prefix_caching

    def find_prefix(self, sequence: Sequence) -> tuple[int, ...]:
        """Blocks that already hold the sequence's first tokens; they are not acquired yet.

        At most (num_tokens − 1) // block_size of them: the last token must be computed to obtain logits. Without prefix caching a choice
        of an n > 1 request still shares the prompt blocks that choice 0 has computed.
        """
        limit = (sequence.num_tokens - 1) // self.block_size
        if not self.prefix_caching:
            leader = sequence.group.leader
            if sequence is leader or leader.finish_reason is not None:
                return ()
            full_prompt_blocks = min(sequence.num_prompt_tokens, leader.num_computed_tokens) // self.block_size
            return leader.block_ids[: min(limit, full_prompt_blocks)]
        blocks: list[int] = []
        for block_hash in self._hashes(sequence, limit):
            block_id = self.pool.find(block_hash)
            if block_id is None:
                break
            blocks.append(block_id)
        return tuple(blocks)

    def has_room(self, prefix: tuple[int, ...], num_tokens: int) -> bool:
        """Whether `num_tokens` that begin with the blocks of `prefix` find room now."""
        fresh = -(-num_tokens // self.block_size) - len(prefix)
        revived = sum(self.pool.is_free(block_id) for block_id in prefix)  # hits in the free list leave it, too
        return fresh + revived <= self.pool.num_free

    def admit(self, sequence: Sequence, prefix: tuple[int, ...], num_tokens: int) -> None:
        """Give a sequence without blocks its `prefix` and room for `num_tokens` in all; `has_room` must hold."""
        assert not sequence.block_ids
        self.pool.acquire(prefix)
        blocks = self.pool.allocate(-(-num_tokens // self.block_size) - len(prefix))
        assert blocks is not None
        self._hold(sequence, (*prefix, *blocks))
        sequence.num_computed_tokens = len(prefix) * self.block_size
        sequence.num_remembered_blocks = len(prefix)

    def grow(self, sequence: Sequence, num_tokens: int) -> bool:
        """Room for `num_tokens` in all; False (and nothing taken) if there is none: the caller preempts."""
        if num_tokens <= sequence.num_slots:
            return True
        blocks = self.pool.allocate(-(-num_tokens // self.block_size) - len(sequence.block_ids))
        if blocks is None:
            return False
        self._hold(sequence, (*sequence.block_ids, *blocks))
        return True

    def remember(self, sequence: Sequence) -> None:
        """Register the full blocks that the computed tokens now fill."""
        if not self.prefix_caching:
            return
        full = sequence.num_computed_tokens // self.block_size
        if full == sequence.num_remembered_blocks:
            return
        hashes = self._hashes(sequence, full)
        for i in range(sequence.num_remembered_blocks, full):
            self.pool.remember(sequence.block_ids[i], hashes[i])
        sequence.num_remembered_blocks = full

    def forget(self, sequence: Sequence) -> None:
        """Its content cannot be trusted: nobody shall find its blocks again."""
        self.pool.forget(sequence.block_ids)

    def release(self, sequence: Sequence) -> None:
        """Give all blocks back; the sequence has computed nothing any more."""
        self.pool.release(reversed(sequence.block_ids))
        self._hold(sequence, ())
        sequence.num_computed_tokens = 0
        sequence.num_remembered_blocks = 0

    def _hold(self, sequence: Sequence, block_ids: tuple[int, ...]) -> None:
        sequence.block_ids = block_ids
        sequence.num_slots = len(block_ids) * self.block_size

    def _hashes(self, sequence: Sequence, count: int) -> list[bytes]:
        """Chained hashes of the first `count` full blocks. blake2b: a collision would show one user another user's cache."""
        known = sequence.block_hashes
        while len(known) < count:
            start = len(known) * self.block_size
            ids = array("i", sequence.token_slice(start, start + self.block_size))
            known.append(hashlib.blake2b(ids.tobytes(), digest_size=16, key=known[-1] if known else b"").digest())
        return known[:count]

    def check_invariants(self, sequences: list[Sequence]) -> None:
        """The pool's reference counts are exactly the sequences' block tables."""
        self.pool.check_invariants()
        held: dict[int, int] = {}
        for sequence in sequences:
            assert len(set(sequence.block_ids)) == len(sequence.block_ids)
            assert len(sequence.block_ids) * self.block_size == sequence.num_slots >= sequence.num_computed_tokens
            for block_id in sequence.block_ids:
                held[block_id] = held.get(block_id, 0) + 1
        counts = {b: refs for b, refs in enumerate(self.pool._ref_counts) if refs}
        assert counts == held, (counts, held)
