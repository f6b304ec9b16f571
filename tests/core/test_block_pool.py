"""Blocks: exact ids, references, and what is found again."""

from __future__ import annotations

import pytest

from ernie_backend.core.block_pool import BlockPool


def test_hands_out_in_order_and_refuses_without_taking() -> None:
    pool = BlockPool(4)
    assert pool.allocate(3) == [0, 1, 2]
    assert pool.allocate(2) is None
    assert pool.num_free == 1 and pool.num_used == 3
    pool.check_invariants()


def test_a_free_block_is_found_until_it_is_handed_out_again() -> None:
    pool = BlockPool(3)
    assert pool.allocate(2) == [0, 1]
    pool.remember(0, b"a")
    pool.remember(1, b"b")
    pool.release([1, 0])
    assert pool.find(b"a") == 0 and pool.find(b"b") == 1
    assert pool.allocate(2) == [2, 1], "the never used block first, then the end of the prefix before its start"
    assert pool.find(b"b") is None and pool.find(b"a") == 0
    pool.check_invariants()


def test_shared_blocks_are_free_only_after_the_last_release() -> None:
    pool = BlockPool(2)
    (block,) = pool.allocate(1)
    pool.acquire([block])
    pool.release([block])
    assert not pool.is_free(block)
    pool.release([block])
    assert pool.is_free(block)
    with pytest.raises(AssertionError):
        pool.release([block])


def test_acquiring_a_free_block_keeps_its_content() -> None:
    pool = BlockPool(2)
    pool.allocate(1)
    pool.remember(0, b"a")
    pool.release([0])
    pool.acquire([0])
    assert pool.num_free == 1 and pool.find(b"a") == 0
    assert pool.allocate(2) is None
    pool.check_invariants()


def test_the_first_block_of_a_content_wins() -> None:
    pool = BlockPool(2)
    pool.allocate(2)
    pool.remember(0, b"a")
    pool.remember(1, b"a")
    assert pool.find(b"a") == 0
    pool.check_invariants()


def test_forget_all() -> None:
    pool = BlockPool(2)
    pool.allocate(1)
    pool.remember(0, b"a")
    pool.forget_all()
    assert pool.find(b"a") is None
    pool.check_invariants()
