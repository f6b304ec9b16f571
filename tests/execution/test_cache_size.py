"""How many KV-cache blocks there are, and which numbers of them are refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ernie_backend.build import _cache_blocks
from ernie_backend.config import EngineConfig
from ernie_backend.errors import ConfigError

CONFIG = EngineConfig(model="m", max_model_len=640, max_num_seqs=4, block_size_tokens=64)
MIB = 2**20


def test_a_cpu_takes_what_it_needs_and_a_gpu_what_there_is() -> None:
    assert _cache_blocks(CONFIG, MIB, 100 * MIB, on_gpu=False) == 40
    assert _cache_blocks(CONFIG, MIB, 25 * MIB, on_gpu=False) == 25
    assert _cache_blocks(CONFIG, MIB, 100 * MIB, on_gpu=True) == 100
    assert _cache_blocks(replace(CONFIG, num_blocks=150), MIB, 100 * MIB, on_gpu=False) == 150


@pytest.mark.parametrize(
    ("num_blocks", "words"),
    [(201, r"would take 0\.2 GiB, but only 0\.2 GiB are free"), (2**31 - 1, "would take 2097152")],
)
def test_a_number_of_blocks_that_cannot_be(num_blocks: int, words: str) -> None:
    with pytest.raises(ConfigError, match=f"{words}.*--num-gpu-blocks-override") as caught:
        _cache_blocks(replace(CONFIG, num_blocks=num_blocks), MIB, 100 * MIB, on_gpu=False)
    assert caught.value.param == "num_blocks"
