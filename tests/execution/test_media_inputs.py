"""When an image is encoded, how long its rows are kept, and what a step is told of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ernie_backend.config import EngineConfig, ModelConfig
from ernie_backend.core.engine_core import EngineCore
from ernie_backend.core.scheduler import Scheduler
from ernie_backend.execution.encoder_cache import EncoderCache
from ernie_backend.execution.model_runner import ModelRunner
from ernie_backend.execution.models import ernie45_vl
from ernie_backend.execution.sequence_media import SequenceMedia
from ernie_backend.execution.weights import load_model
from ernie_backend.protocol import FinishReason, GenerateRequest, MediaItem, MediaKind, SamplingParams
from ernie_kernels import xp
from tests.parity.vision_checkpoints import make_item, make_model, make_prompt

ROW_BYTES = 8


def item(name: str, num_tokens: int = 4) -> MediaItem:
    return MediaItem(MediaKind.IMAGE, b"", (1, 2, 2 * num_tokens), 0, num_tokens, name.encode())


class Encoder:
    """Counts what it is asked for."""

    def __init__(self) -> None:
        self.encoded: list[bytes] = []

    def __call__(self, given: MediaItem) -> object:
        self.encoded.append(given.content_hash)
        return xp.zeros([given.num_tokens, 2], "float32")


def test_the_least_recently_used_goes_first() -> None:
    encode, cache = Encoder(), EncoderCache(3 * 4 * ROW_BYTES, ROW_BYTES)
    for sequence_id, name in enumerate("abcadb"):
        cache.hold(item(name), sequence_id, encode)
        cache.release(name.encode(), sequence_id)
        cache.check_invariants()
    assert encode.encoded == [b"a", b"b", b"c", b"d", b"b"], "d took b's place, and b c's"
    assert cache.num_bytes == 3 * 4 * ROW_BYTES


def test_what_is_held_stays_beyond_the_bound() -> None:
    encode, cache = Encoder(), EncoderCache(0, ROW_BYTES)
    for sequence_id in (1, 2):
        for name in "ab":
            cache.hold(item(name), sequence_id, encode)
    cache.check_invariants()
    assert encode.encoded == [b"a", b"b"] and cache.num_bytes == 2 * 4 * ROW_BYTES
    cache.release(b"a", 1)
    assert cache.num_bytes == 2 * 4 * ROW_BYTES, "2 still holds it"
    for sequence_id in (1, 2):
        for name in "ab":
            cache.release(name.encode(), sequence_id)
    assert cache.num_bytes == 0


class Seeing:
    """An engine core on a tiny model, and what its encoder has been asked for."""

    def __init__(self, folder, **changes: object) -> None:
        config = ModelConfig.from_folder(folder)
        settings = {"max_model_len": 192, "max_num_seqs": 4, "block_size_tokens": 16, "max_num_batched_tokens": 192, **changes}
        engine = EngineConfig(str(folder), **settings).resolved(config)  # type: ignore[arg-type]
        self.runner = ModelRunner(load_model(folder, config, progress=False), config, engine, 64)
        self.core = EngineCore(Scheduler(engine, 64), self.runner)
        self.encoded: list[bytes] = []
        assert self.runner.media is not None
        self.media = self.runner.media
        encode = self.media.encode
        self.media.encode = lambda given: self.encoded.append(given.content_hash) or encode(given)

    def answer(self, key: str, prompt, max_tokens: int = 4) -> list[int]:
        self.core.add(GenerateRequest(key, tuple(prompt.token_ids), SamplingParams(max_tokens, temperature=0.0), media=prompt.media))
        tokens: list[int] = []
        while self.core.has_work:
            for event in self.core.step().events:
                tokens += event.token_ids
                assert event.error is None
        return tokens


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("vl")
    make_model("vl").save_pretrained(path)
    return path


def test_an_image_is_encoded_once_for_all_its_chunks_and_turns(folder) -> None:
    seeing = Seeing(folder, max_num_batched_tokens=7, enable_prefix_caching=False)
    prompt = make_prompt(1, [3, (1, 8, 8), 4])
    answer = seeing.answer("a", prompt)
    assert len(seeing.encoded) == 1
    second = make_prompt(1, [3, (1, 8, 8), 30])
    seeing.answer("b", second)
    assert len(seeing.encoded) == 1, "the second turn about the same image"
    assert answer == Seeing(folder).answer("a", prompt)


def test_a_cache_of_no_bytes_still_serves_the_chunks_of_one_request(folder) -> None:
    seeing = Seeing(folder, max_num_batched_tokens=7, enable_prefix_caching=False, max_encoder_cache_tokens=0)
    prompt = make_prompt(1, [3, (1, 8, 8), 4, (1, 4, 4), 2])
    seeing.answer("a", prompt)
    assert seeing.encoded == [one.content_hash for one in prompt.media] and seeing.media.cache.num_bytes == 0
    seeing.answer("b", prompt)
    assert len(seeing.encoded) == 4


def test_so_many_tokens_are_kept_as_the_configuration_says(folder) -> None:
    assert Seeing(folder).media.cache.capacity_bytes == 2**29
    seeing = Seeing(folder, max_encoder_cache_tokens=16 + 4, enable_prefix_caching=False)
    large, small, other = (make_prompt(seed, [3, grid, 4]) for seed, grid in enumerate([(1, 8, 8), (1, 4, 4), (1, 2, 4)]))
    for key, prompt in enumerate([large, small, large, small, other, large]):
        seeing.answer(str(key), prompt)
    images = [prompt.media[0].content_hash for prompt in (large, small, other, large)]
    assert seeing.encoded == images, "16 and 4 tokens fit; the 2 of the third image take the place of the first"


def test_a_prefix_hit_behind_the_image_does_not_encode_it(folder) -> None:
    seeing = Seeing(folder, max_encoder_cache_tokens=0)
    for key in "ab":
        seeing.answer(key, make_prompt(1, [3, (1, 4, 4), 40]))
    assert len(seeing.encoded) == 1


def test_the_same_image_twice_in_a_prompt_is_encoded_once(folder) -> None:
    seeing = Seeing(folder, max_num_batched_tokens=5, max_encoder_cache_tokens=0)
    prompt = make_prompt(1, [3, (1, 4, 4), 2, (1, 4, 4), 5])
    first, second = prompt.media
    prompt.media = (first, replace(first, start=second.start))
    seeing.answer("a", prompt)
    assert len(seeing.encoded) == 1


def test_a_video_is_encoded_in_groups_of_frames(folder, monkeypatch) -> None:
    model = Seeing(folder).runner.model.model
    film = make_item(np.random.default_rng(0), (8, 4, 6), MediaKind.VIDEO)
    whole = xp.to_numpy(model.encode(film))
    monkeypatch.setattr(ernie45_vl, "PATCHES_AT_ONCE", 100)  # four frames of 24, then the other four
    np.testing.assert_allclose(xp.to_numpy(model.encode(film)), whole, atol=1e-5)
    monkeypatch.setattr(ernie45_vl, "PATCHES_AT_ONCE", 1)  # never less than a pair
    np.testing.assert_allclose(xp.to_numpy(model.encode(film)), whole, atol=1e-5)
    assert whole.shape == (4 * 2 * 3, 64)


def test_warming_up_sees_and_leaves_nothing(folder) -> None:
    seeing = Seeing(folder)
    seeing.runner.warm_up()
    assert len(seeing.encoded) == 2 and not seeing.runner.states and seeing.media.cache.num_bytes == 0
    prompt = make_prompt(1, [3, (1, 4, 4), 4])
    assert seeing.answer("a", prompt) == Seeing(folder).answer("a", prompt)
    Seeing(folder, max_num_batched_tokens=4).runner.warm_up()  # too short a step for a picture


def test_an_abandoned_request_lets_go_of_its_image(folder) -> None:
    seeing = Seeing(folder, max_num_batched_tokens=8, max_encoder_cache_tokens=0)
    prompt = make_prompt(1, [3, (1, 8, 8), 4])
    seeing.core.add(GenerateRequest("a", tuple(prompt.token_ids), SamplingParams(4), media=prompt.media))
    seeing.core.step()
    assert seeing.media.cache.num_bytes > 0, "in the middle of the image"
    seeing.core.finish_all(FinishReason.ABORT)
    while seeing.core.has_work:
        seeing.core.step()
    assert seeing.media.cache.num_bytes == 0


@pytest.mark.parametrize(
    "change",
    [{"num_tokens": 5}, {"grid": (1, 4, 8)}, {"start": 40}, {"patches": b"short"}],
    ids=lambda change: next(iter(change)),
)
def test_promises_about_media_are_asserted(folder, change) -> None:
    config = ModelConfig.from_folder(folder)
    good = make_item(np.random.default_rng(0), (1, 4, 4), MediaKind.IMAGE, start=2)
    SequenceMedia([good], [1] * 12, config)
    with pytest.raises(AssertionError):
        SequenceMedia([replace(good, **change)], [1] * 12, config)
