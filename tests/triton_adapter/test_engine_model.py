"""The engine step on a fake pb_utils and a real, tiny model: one final flag on every path, and only what preprocess has sealed gets in."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ernie_backend import delivery
from ernie_backend.errors import from_wire
from ernie_backend.media.patches import content_hash
from ernie_backend.protocol import GenerateRequest, MediaItem, MediaKind, SamplingParams
from ernie_backend.triton_adapter.engine import EngineModel
from ernie_backend.triton_adapter.media_tensors import media_json, media_tensors
from ernie_backend.triton_adapter.post_context import PostContext
from ernie_backend.triton_adapter.seal import SIGNATURE_LENGTH, Seal
from tests.fakes.pb_utils import FakePbUtils, InferenceRequest, request

ARGS = {"model_repository": "unused", "model_name": "unused"}


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from ernie_backend.cli.__main__ import main

    folder = tmp_path_factory.mktemp("engine") / "tiny"
    sizes = "num_hidden_layers=1 hidden_size=32 intermediate_size=64 num_attention_heads=2 num_key_value_heads=1 head_dim=16 vocab_size=600"
    assert main(["random-checkpoint", "--like", "ERNIE-4.5-0.3B", "--out", str(folder), "--set", *sizes.split()]) == 0
    return folder


@pytest.fixture
def pb_utils() -> FakePbUtils:
    return FakePbUtils()


@pytest.fixture
def model(tiny_folder: Path, pb_utils: FakePbUtils, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EngineModel]:
    file = tmp_path / "engine.json"
    file.write_text(json.dumps({"model": str(tiny_folder), "max_model_len": 4000, "max_num_seqs": 2}), encoding="utf-8")
    monkeypatch.setenv("ERNIE_CONFIG", str(file))
    model = EngineModel(pb_utils)
    model.initialize(ARGS)
    yield model
    model.finalize()


def sealed(key: str, ids: tuple[int, ...] = (5, 6, 7), *, max_tokens: int = 4, seal: str | None = None, **fields: Any) -> InferenceRequest:
    """What preprocess hands over."""
    post = PostContext(num_prompt_tokens=len(ids)).to_json_object()
    fields = {"sampling": SamplingParams(max_tokens=max_tokens, temperature=0), **fields}
    generate = GenerateRequest(key, ids, post=post, **fields)
    text = generate.to_json()
    signature = Seal.of_server(ARGS).of_request(text, ids) if seal is None else seal
    return request(request=signature + text, prompt_token_ids=list(ids))


def media_item() -> MediaItem:
    patches = bytes(range(196)) * 12
    return MediaItem(MediaKind.IMAGE, patches, (1, 2, 2), 1, 1, content_hash(MediaKind.IMAGE, (1, 2, 2), patches))


def wait(condition: Any, what: str) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def events(each: InferenceRequest) -> list[dict[str, Any]]:
    return [json.loads(response.value("event")) for response in each.sender.responses]


@pytest.mark.parametrize(("stream", "n"), [(True, 1), (True, 3), (False, 1), (False, 2)])
def test_one_final_flag_with_the_last_data(model: EngineModel, stream: bool, n: int) -> None:
    each = sealed("a" * 32, stream=stream, n=n)
    assert model.execute([each]) is None
    wait(lambda: each.sender.is_closed, "the answer ends")
    told = events(each)
    assert [event["final"] for event in told] == [False] * (len(told) - 1) + [True]
    for index in range(n):
        mine = [event for event in told if event["index"] == index]
        assert [event["post"] is not None for event in mine] == [True] + [False] * (len(mine) - 1)
        assert mine[-1]["finish_reason"] in ("length", "stop") and (stream or len(mine) == 1)


def test_it_is_idle_when_all_that_has_left_is_acknowledged(model: EngineModel) -> None:
    each = sealed("9" * 32, max_tokens=3000)
    assert model._is_idle()
    model.execute([each])
    wait(lambda: each.sender.responses, "the answer begins")
    assert not model._is_idle() and not each.sender.is_closed
    model._serving.engine.abort("9" * 32)
    wait(lambda: each.sender.is_closed, "the answer ends")
    assert not model._is_idle(), "postprocess has not read it"
    model._serving.delivery.consumed(len(each.sender.responses))
    wait(model._is_idle, "nothing is under way")


@pytest.mark.parametrize("seal", ["", "0" * 32, "é" * 32])
def test_a_request_that_preprocess_has_not_seen(model: EngineModel, seal: str) -> None:
    each, good = sealed("b" * 32, ids=(10**6,), seal=seal), sealed("c" * 32)
    model.execute([each, good])
    assert each.sender.is_closed
    error = each.sender.responses[0].error()
    assert error is not None and "ensemble" in from_wire(error.message()).message
    wait(lambda: good.sender.is_closed, "its neighbour is answered")
    assert events(good)[-1]["finish_reason"] in ("length", "stop")


@pytest.mark.parametrize("change", ["added", "moved", "other patches"])
def test_media_is_sealed_with_the_rest(model: EngineModel, change: str) -> None:
    """Whoever got others' answers about a picture of his choice would have had to change one of these."""
    each, item = sealed("9" * 32), media_item()
    media, patches = media_tensors(FakePbUtils(), [item])
    if change == "moved":
        each = resealed(each, media_json([item]))
        media, _ = media_tensors(FakePbUtils(), [replace(item, start=2)])
    elif change == "other patches":
        each = resealed(each, media_json([item]))
        _, patches = media_tensors(FakePbUtils(), [replace(item, patches=item.patches[::-1])])
    each.tensors += [media, patches]
    model.execute([each])
    assert each.sender.is_closed
    error = each.sender.responses[0].error()
    assert error is not None and "ensemble" in from_wire(error.message()).message


def resealed(each: InferenceRequest, media: str) -> InferenceRequest:
    """As preprocess would have sealed it with this media."""
    text = each.tensors[0].as_numpy()[0].decode()[SIGNATURE_LENGTH:]
    each.tensors[0] = request(request=Seal.of_server(ARGS).of_request(text, (5, 6, 7), media) + text).tensors[0]
    return each


def test_ids_and_json_are_sealed_together(model: EngineModel) -> None:
    each = sealed("d" * 32)
    each.tensors[1] = request(prompt_token_ids=[10**6]).tensors[0]
    model.execute([each])
    assert each.sender.responses[0].error() is not None


def test_the_same_request_twice_at_once(model: EngineModel) -> None:
    first, second = sealed("e" * 32, max_tokens=300), sealed("e" * 32, max_tokens=300)
    model.execute([first, second])
    assert second.sender.responses[0].error() is not None
    wait(lambda: first.sender.is_closed, "the first is answered")
    again = sealed("e" * 32)
    model.execute([again])
    wait(lambda: again.sender.is_closed, "its key is free again")
    assert again.sender.responses[0].error() is None


def test_a_response_that_cannot_be_sent_ends_its_request(model: EngineModel) -> None:
    broken, sound = sealed("f" * 32, max_tokens=200), sealed("0" * 32)
    broken.sender.broken = True
    model.execute([broken, sound])
    wait(lambda: broken.sender.is_closed and sound.sender.is_closed, "both end")
    assert [response.error() is None for response in broken.sender.responses] == [False]
    wait(lambda: model._serving.engine.stats.num_blocks_used == 0, "the blocks come back")
    assert model.is_ready()


def test_a_queued_request_is_heard_of(model: EngineModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "HEARTBEAT_SECONDS", 0.05)
    running = [sealed(str(i) * 32, max_tokens=3000) for i in (1, 2)]
    queued = sealed("3" * 32)
    model.execute([*running, queued])
    wait(lambda: queued.sender.responses, "an empty response comes while it waits")
    first = events(queued)[0]
    assert queued.sender.responses[0].value("new_token_ids") == [] and first["post"] is not None and first["finish_reason"] is None
    for i in (1, 2):
        model._serving.engine.abort(str(i) * 32)
    wait(lambda: queued.sender.is_closed, "it is answered")
    assert all(each.sender.is_closed for each in running)


def test_shutdown_ends_streams(model: EngineModel) -> None:
    each = sealed("4" * 32, max_tokens=3000)
    model.execute([each])
    wait(lambda: each.sender.responses, "it runs")
    model.finalize()
    assert each.sender.is_closed and events(each)[-1]["finish_reason"] == "abort"


def test_counts_are_published(model: EngineModel, pb_utils: FakePbUtils) -> None:
    each = sealed("5" * 32, max_tokens=4)
    model.execute([each])
    wait(lambda: each.sender.is_closed, "the answer ends")
    counted = "ernie_prompt_tokens_total"
    wait(lambda: counted in pb_utils.metrics and pb_utils.metrics[counted].values[-1:] == [3], "published within a second or so")
    assert pb_utils.metrics["ernie_kv_blocks"].values[-1] > 0
