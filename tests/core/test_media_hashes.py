"""Block hashes of prompts with images: the same words about other pixels are another prompt."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ernie_backend.protocol import GenerateRequest, MediaItem, MediaKind
from tests.core.driver import Driver, request

IDS = tuple(range(1, 30))
ITEM = MediaItem(MediaKind.IMAGE, b"", (1, 4, 6), start=6, num_tokens=6, content_hash=b"a" * 16)  # tokens 6 … 11 of blocks of 4: 1 and 2


def cached_blocks(first: GenerateRequest, second: GenerateRequest) -> int:
    """Blocks of `second` that `first` has left in the cache."""
    driver = Driver()
    for one in (first, second):
        driver.core.add(one)
        driver.run()
    return driver.scheduler.stats().cached_tokens_total // driver.config.block_size_tokens


def seen(key: str, *items: MediaItem) -> GenerateRequest:
    return replace(request(key, IDS, max_tokens=2), media=items)


def test_the_same_image_is_found_again() -> None:
    assert cached_blocks(seen("a", ITEM), seen("b", ITEM)) == 7


@pytest.mark.parametrize(
    "other",
    [
        replace(ITEM, content_hash=b"b" * 16),
        replace(ITEM, grid=(1, 6, 4)),
        replace(ITEM, start=7, num_tokens=5),
        None,
    ],
    ids=["pixels", "shape", "place", "text alone"],
)
def test_nothing_is_found_from_the_first_block_of_another_image_on(other: MediaItem | None) -> None:
    assert cached_blocks(seen("a", ITEM), seen("b", *([other] if other else []))) == 1


@pytest.mark.parametrize(("start", "found"), [(4, 0), (5, 1), (8, 1), (9, 2)])
def test_a_delimiter_belongs_to_its_image(start: int, found: int) -> None:
    """A placeholder at 4 has its start delimiter at 3: in block 0, whose content the image then changes."""
    item = replace(ITEM, start=start)
    assert cached_blocks(seen("a", item), seen("b", replace(item, content_hash=b"b" * 16))) == found


def test_text_behind_another_image_is_other_text() -> None:
    """The chain of hashes carries an image on to all that follows."""
    assert (
        cached_blocks(
            seen("a", replace(ITEM, start=1, num_tokens=2)), seen("b", replace(ITEM, start=1, num_tokens=2, content_hash=b"c" * 16))
        )
        == 0
    )


def test_the_runner_is_told_of_the_images() -> None:
    driver = Driver()
    driver.core.add(seen("a", ITEM))
    driver.step()
    assert driver.runner.outputs[-1].new_sequences[0].media == (ITEM,)
    driver.run()
