"""Requests with images and videos through preprocess: their places in the prompt, what is refused, and that nobody waits for another."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ernie_backend.errors import CheckpointError, ConfigError, ErnieError, from_wire
from ernie_backend.media.patches import content_hash
from ernie_backend.protocol import GenerateRequest, MediaItem, MediaKind
from ernie_backend.text.tokenizer import Tokenizer
from ernie_backend.triton_adapter.media_tensors import media_json, media_tensors, read_media
from ernie_backend.triton_adapter.post_context import PostContext
from ernie_backend.triton_adapter.preprocess import RequestInputs
from ernie_backend.triton_adapter.preprocess_model import PreprocessModel
from ernie_backend.triton_adapter.seal import SIGNATURE_LENGTH, Seal, is_same
from ernie_backend.triton_adapter.waiting import Pulse, Refusal, read_word
from tests.fakes.pb_utils import FakePbUtils, InferenceRequest, InferenceResponse, TritonModelException, request
from tests.media.conftest import ServerOf, encoded, picture, serve
from tests.media.hostile_server import HostileServer, body, redirect
from tests.media.videos import video
from tests.triton_adapter.conftest import VOCAB_SIZE, without_template, write_model
from tests.triton_adapter.test_preprocess import make

__all__ = ["serve"]  # a fixture
ARGS = {"model_repository": "unused", "model_name": "unused"}
LIMITS = {"image": 4, "video": 2}
SETTINGS: dict[str, Any] = {"max_model_len": 4000, "allow_private_media": True, "limit_mm_per_prompt": LIMITS}
SMALL = encoded(picture(56, 84))  # 6 tokens
Start = Callable[..., PreprocessModel]


@pytest.fixture
def start(seeing_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """A preprocess model with other settings."""
    models: list[PreprocessModel] = []

    def run(folder: Path = seeing_folder, **settings: Any) -> PreprocessModel:
        file = tmp_path / "engine.json"
        file.write_text(json.dumps({"model": str(folder), **SETTINGS, **settings}), encoding="utf-8")
        monkeypatch.setenv("ERNIE_CONFIG", str(file))
        models.append(PreprocessModel(FakePbUtils()))
        models[-1].initialize(ARGS)
        return models[-1]

    yield run
    for model in models:
        model.finalize()


@pytest.fixture
def model(start: Start) -> PreprocessModel:
    return start()


def data_url(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def image(url: str | bytes, **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url if isinstance(url, str) else data_url(url), **more}}


def video_part(data: bytes, **more: Any) -> dict[str, Any]:
    return {"type": "video_url", "video_url": {"url": data_url(data), **more}}


def chat(*parts: Any, **fields: Any) -> InferenceRequest:
    content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    return request(chat=json.dumps({"messages": [{"role": "user", "content": content}], **fields}))


def wait(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def answer(model: PreprocessModel, each: InferenceRequest) -> InferenceResponse:
    assert model.execute([each]) is None
    wait(lambda: each.sender.is_closed, "the response comes")
    *pulses, response = each.sender.responses
    assert all(isinstance(word_of(pulse), Pulse) for pulse in pulses)
    return response


def word_of(response: InferenceResponse) -> Pulse | Refusal | None:
    """What preprocess tells the engine beside requests, its seal checked; None: it is one, without media."""
    text, ids = response.value("request"), tuple(response.value("prompt_token_ids"))
    assert is_same(text[:SIGNATURE_LENGTH], Seal.of_server(ARGS).of_request(text[SIGNATURE_LENGTH:], ids))
    return read_word(text[SIGNATURE_LENGTH:])


def prepared(model: PreprocessModel, each: InferenceRequest) -> GenerateRequest:
    """What the engine would read, seal and hashes checked."""
    response = answer(model, each)
    assert response.error() is None, response.error()
    names = {tensor.name() for tensor in response.output_tensors()}
    ids = tuple(response.value("prompt_token_ids"))
    signature, text = response.value("request")[:SIGNATURE_LENGTH], response.value("request")[SIGNATURE_LENGTH:]
    media = response.value("media") if "media" in names else ""
    assert names == {"request", "prompt_token_ids"} | ({"media", "patches"} if media else set())
    assert is_same(signature, Seal.of_server(ARGS).of_request(text, ids, media))
    return GenerateRequest.from_json(text, ids, read_media(FakePbUtils(), InferenceRequest(response.output_tensors())))


def refused(model: PreprocessModel, each: InferenceRequest) -> ErnieError:
    return refusal_in(answer(model, each))


def refusal_in(response: InferenceResponse) -> ErnieError:
    """At once, or of a request that has waited, by way of the engine."""
    error = response.error()
    if error is not None:
        return from_wire(error.message())
    word = word_of(response)
    assert isinstance(word, Refusal)
    return from_wire(word.error)


class TestPrompts:
    def test_placeholders_become_as_many_tokens_as_the_item_has(self, model: PreprocessModel, seeing_folder: Path) -> None:
        tokenizer = Tokenizer.from_folder(seeing_folder)
        placeholder = tokenizer.token_id("<|IMAGE_PLACEHOLDER|>")
        found = prepared(model, chat("look", image(SMALL), "and", image(encoded(picture(112, 56))), "!"))
        ids = found.prompt_token_ids
        assert [(item.kind, item.grid, item.num_tokens) for item in found.media] == [
            (MediaKind.IMAGE, (1, 4, 6), 6),
            (MediaKind.IMAGE, (1, 8, 4), 8),
        ]
        for item in found.media:
            inside = ids[item.start : item.start + item.num_tokens]
            assert set(inside) == {placeholder}
            assert ids[item.start - 1] == tokenizer.token_id("<|IMAGE_START|>")
            assert ids[item.start + item.num_tokens] == tokenizer.token_id("<|IMAGE_END|>")
        assert ids.count(placeholder) == 14
        text = tokenizer.decode([token for token in ids if token != placeholder], skip_special_tokens=False)
        picture_is = "<|IMAGE_START|><|IMAGE_END|>"
        assert f"User: lookPicture 1:{picture_is}andPicture 2:{picture_is}!\nAssistant: <think>" in text

    def test_video(self, model: PreprocessModel) -> None:
        settings = {"video_max_pixels": 300_000}
        found = prepared(model, chat(video_part(video(num_frames=60), max_frames=16), image(SMALL), "?", mm_processor_kwargs=settings))
        first, second = found.media
        assert (first.kind, first.grid[0], second.kind) == (MediaKind.VIDEO, 16, MediaKind.IMAGE)
        assert first.num_tokens == 16 * first.grid[1] * first.grid[2] // 8 and first.start < second.start
        post = PostContext.from_json_object(found.post)
        assert (post.num_image_tokens, post.num_video_tokens) == (6, first.num_tokens)
        assert post.num_prompt_tokens == len(found.prompt_token_ids)

    def test_text_alone_brings_no_tensors(self, model: PreprocessModel) -> None:
        found = prepared(model, chat("hello"))
        assert found.media == ()
        assert found.post["num_image_tokens"] == found.post["num_video_tokens"] == 0

    def test_a_raw_prompt_says_where(self, model: PreprocessModel) -> None:
        prompt = "User: <|IMAGE_START|><|image@placeholder|><|IMAGE_END|>and<|IMAGE_PLACEHOLDER|>"
        images = [base64.b64encode(SMALL).decode(), data_url(encoded(picture(28, 112)))]
        found = prepared(model, request(text_input=prompt, image=images))
        assert [item.num_tokens for item in found.media] == [6, 4]
        chat_request = chat(image(SMALL), "User: <|image@placeholder|>", disable_chat_template=True)
        assert [item.num_tokens for item in prepared(model, chat_request).media] == [6]

    def test_a_typed_placeholder_is_no_place(self, model: PreprocessModel) -> None:
        found = prepared(model, chat("<|image@placeholder|><|IMAGE_PLACEHOLDER|>", image(SMALL)))
        assert len(found.media) == 1 and found.prompt_token_ids.count(found.prompt_token_ids[found.media[0].start]) == 6

    def test_settings_of_server_and_request(self, start: Start) -> None:
        model = start(mm_processor_kwargs={"image_max_pixels": 50_000})
        large = image(encoded(picture(480, 640)))
        assert prepared(model, chat(large)).media[0].num_tokens <= 64
        assert prepared(model, chat(large, mm_processor_kwargs={"max_pixels": 10_000})).media[0].num_tokens <= 13

    def test_detail_has_no_effect(self, model: PreprocessModel) -> None:
        plain, *others = (prepared(model, chat(image(SMALL, **more))).media[0] for more in ({}, {"detail": "high"}, {"detail": "low"}))
        assert all(other.content_hash == plain.content_hash for other in others)

    def test_paddleocr(self, start: Start, seeing_folder: Path, tmp_path: Path) -> None:
        config = json.loads((seeing_folder / "config.json").read_text())
        folder = tmp_path / "ocr"
        folder.mkdir()
        write_model(folder, vision_config=config["vision_config"], image_token_id=config["im_patch_id"], model_type="paddleocr_vl")
        without_template(folder)
        model = start(folder)
        found = prepared(model, chat(image(encoded(picture(480, 640))), "OCR:"))
        assert found.media[0].num_tokens == 391
        assert refused(model, chat(video_part(video(num_frames=3)))).message == "messages[0].content[0]: this model takes no videos."

    def test_the_thinking_model_is_known_by_its_folder(self, seeing_folder: Path, tmp_path: Path) -> None:
        folder = tmp_path / "ERNIE-4.5-VL-28B-A3B-Thinking"
        folder.symlink_to(seeing_folder)
        for path, begins in ((folder, "You are a multimodal AI assistant"), (seeing_folder, "User: ")):
            preprocessor = make(path, max_model_len=4000)
            inputs = RequestInputs(chat=json.dumps({"messages": [{"role": "user", "content": "x"}]}), exclude_input_in_output=False)
            echo = preprocessor.finish(preprocessor.prepare(inputs)).post["echo"]
            preprocessor.close()
            assert echo.startswith(f"<|begin_of_sentence|>{begins}")


class TestRefusals:
    @pytest.mark.parametrize(
        ("each", "param", "words"),
        [
            (chat("a", image("data:image/png;base64,aGVsbG8sIEkgYW0gdGV4dA==")), "messages[0].content[1]", "is not an image"),
            (chat("a", image("data:image/png;base64,%%%")), "messages[0].content[1]", "not valid base64"),
            (chat("a", image("cat.png")), "messages[0].content[1]", "begins with none of"),
            (chat("a", image("file:///etc/passwd")), "messages[0].content[1]", "reads no files"),
            (chat("a", image("http://169.254.169.254/latest/meta-data")), "messages[0].content[1]", "not public"),
            (chat("a", *[image(SMALL)] * 5), "messages[0].content[5]", "Too many image items in prompt, got 5 but limit is 4"),
            (chat("a", *[video_part(b"")] * 3), "messages[0].content[3]", "Too many video items in prompt, got 3 but limit is 2"),
            (chat("a", video_part(SMALL)), "messages[0].content[1]", "is not a video"),
            (chat("a", {"type": "audio_url"}), "messages[0].content[1].type", "Unknown content part type: 'audio_url'"),
            (chat("a", image(SMALL, size=5)), "messages[0].content[1].image_url.size", "Unknown field 'size'"),
            (chat("a", image(SMALL), mm_processor_kwargs={"image_max_pixels": "x"}), "mm_processor_kwargs.image_max_pixels", "an integer"),
            (chat("a", image(SMALL), mm_processor_kwargs={"surprise": 1}), "mm_processor_kwargs.surprise", "Unknown key"),
            (chat(image(encoded(picture(1100, 1100))), image(encoded(picture(1400, 1400)))), "messages", "The prompt has 40"),
            (chat(image(encoded(picture(2100, 2100)))), "messages[0].content[0]", "takes 5625 tokens"),
            (request(text_input="no place", image=["AAAA"]), "text_input", "0 image placeholders for 1 image items"),
            (request(text_input="<|image@placeholder|>"), "text_input", "1 image placeholders for 0 image items"),
            (request(text_input="<|image@placeholder|>", image=["AAAA"]), "image[0]", "image[0]: the image is not an image"),
            (request(text_input="<|image@placeholder|>", image=[b"\xff"]), "image", "must hold base64 text"),
            (request(text_input="<|image@placeholder|>" * 5, image=["AAAA"] * 5), "image[4]", "Too many image items"),
            (request(chat='{"messages": [{"role": "user", "content": "x"}]}', image=["AAAA"]), "image", "goes with text_input"),
        ],
    )  # fmt: skip
    def test_each_names_its_place(self, model: PreprocessModel, each: InferenceRequest, param: str, words: str) -> None:
        error = refused(model, each)
        assert (error.param, error.http_status) == (param, 400)
        assert words in error.message

    def test_too_many_are_refused_before_any_is_fetched(self, model: PreprocessModel, serve: ServerOf) -> None:
        server = serve({"/": body(SMALL)})
        assert "Too many" in refused(model, chat(*[image(server.url("/"))] * 5)).message
        assert server.requests == []

    def test_ids_may_hold_no_placeholders(self, model: PreprocessModel, seeing_folder: Path) -> None:
        placeholder = Tokenizer.from_folder(seeing_folder).token_id("<|IMAGE_PLACEHOLDER|>")
        error = refused(model, request(chat=json.dumps({"prompt_token_ids": [5, placeholder]})))
        assert error.param == "prompt_token_ids[1]" and "placeholder" in error.message

    def test_a_template_that_shows_no_pictures(self, start: Start) -> None:
        model = start(chat_template="{% for m in messages %}{{ m.role }}{% endfor %}")
        error = refused(model, chat("a", image(SMALL)))
        assert error.param == "messages" and "0 image placeholders for 1 image items" in error.message

    def test_the_first_of_several_is_named(self, model: PreprocessModel) -> None:
        error = refused(model, chat(image(SMALL), image("data:;base64,AAAA"), image("data:;base64,!")))
        assert error.param == "messages[0].content[1]"

    def test_a_text_model_takes_none(self, start: Start, model_folder: Path) -> None:
        model = start(model_folder)
        error = refused(model, chat("a", image(SMALL)))
        assert error.message == "messages[0].content[1] is of type 'image_url', but this model takes no images, only text."
        assert refused(model, request(text_input="a", image=["AAAA"])).param == "image"

    def test_private_addresses_by_default(self, start: Start, serve: ServerOf) -> None:
        server = serve({"/": body(SMALL)})
        model = start(allow_private_media=False)
        assert "port" in refused(model, chat(image(server.url("/")))).message
        assert "not public" in refused(model, chat(image("http://127.0.0.1:8080/"))).message
        assert server.requests == []

    def test_domains_and_local_files(self, start: Start, tmp_path: Path) -> None:
        (tmp_path / "media").mkdir()
        (tmp_path / "media" / "cat.png").write_bytes(SMALL)
        model = start(allowed_media_domains=["a.example"], allowed_local_media_path=str(tmp_path / "media"))
        assert prepared(model, chat(image(f"file://{tmp_path}/media/cat.png"))).media[0].num_tokens == 6
        assert "not among the domains" in refused(model, chat(image("http://127.0.0.1/"))).message

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"mm_processor_kwargs": {"spatial_conv_size": 4}}, "spatial_conv_size is 2 in this model"),
            ({"mm_processor_kwargs": {"video_fps": "2"}}, "video_fps must be a number"),
            ({"limit_mm_per_prompt": {"picture": 2}}, "Unknown key 'picture'"),
        ],
    )
    def test_server_settings_that_are_wrong(self, start: Start, settings: dict[str, Any], words: str) -> None:
        with pytest.raises((ConfigError, TritonModelException), match=words):
            start(**settings)

    def test_a_placeholder_of_another_tokenizer(self, seeing_folder: Path, tmp_path: Path) -> None:
        config = json.loads((seeing_folder / "config.json").read_text())
        for wrong, words in ((config["im_patch_id"] + 1, "do not belong together"), (VOCAB_SIZE, "outside the vocabulary")):
            with pytest.raises(CheckpointError, match=words):
                make(write_model(tmp_path, vision_config=config["vision_config"], im_patch_id=wrong))


class TestNobodyWaitsForAnother:
    def test_text_and_images_go_on_beside_hung_hosts(self, model: PreprocessModel, serve: ServerOf) -> None:
        """Every attack at once, more than one model process had instances for; a normal stream beside it goes on."""
        release = threading.Event()

        def hang(_: object, server: HostileServer) -> None:
            release.wait(60)

        def drip(connection: Any, server: HostileServer) -> None:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n" + SMALL[:20])
            while not release.wait(0.05):
                connection.sendall(b"\0")

        server = serve({"/hang": hang, "/drip": drip, "/good": body(SMALL), "/loop": redirect("/loop"), "/bad": body(b"<html>" * 9)})
        stuck = [chat(image(server.url(path))) for path in ("/hang", "/drip") * 10]
        model.execute(stuck)
        wait(lambda: len(server.requests) == len(stuck), "all of them are under way")
        for _ in range(5):
            assert prepared(model, chat("hello")).media == ()
            assert len(prepared(model, chat(image(server.url("/good")), image(SMALL))).media) == 2
            assert "redirects more than 3 times" in refused(model, chat(image(server.url("/loop")))).message
            assert "is not an image" in refused(model, chat(image(server.url("/bad")))).message
        assert not any(each.sender.is_closed for each in stuck)
        release.set()
        wait(lambda: all(each.sender.is_closed for each in stuck), "the others get their answers, too")
        assert all(refusal_in(each.sender.responses[-1]).http_status == 400 for each in stuck)

    def test_items_of_one_request_come_in_order_whichever_is_first(self, model: PreprocessModel, serve: ServerOf) -> None:
        second_was_sent = threading.Event()

        def late(connection: Any, server: HostileServer) -> None:
            second_was_sent.wait(60)
            body(encoded(picture(28, 112)))(connection, server)

        def early(connection: Any, server: HostileServer) -> None:
            body(SMALL)(connection, server)
            second_was_sent.set()

        server = serve({"/1": late, "/2": early})
        found = prepared(model, chat(image(server.url("/1")), image(server.url("/2"))))
        assert [item.num_tokens for item in found.media] == [4, 6]

    def test_the_end_of_the_server_answers_what_waits(self, start: Start, serve: ServerOf) -> None:
        model = start()
        server = serve({"/": lambda _, server: server.stopping.wait(60)})
        waiting = [chat(image(server.url("/"))) for _ in range(40)]
        model.execute(waiting)
        wait(lambda: server.requests, "some have begun")
        model.finalize()
        assert all(each.sender.is_closed for each in waiting)
        assert all(refusal_in(each.sender.responses[-1]).http_status == 503 for each in waiting)

    def test_a_response_that_cannot_be_sent_becomes_an_error(self, model: PreprocessModel) -> None:
        each = chat(image(SMALL))
        each.sender.broken = True
        error = refused(model, each)
        assert error.http_status == 500 and "shared memory" not in error.message


class TestTensors:
    ITEMS = tuple(MediaItem(MediaKind.IMAGE, bytes([i]) * 588 * 4, (1, 2, 2), 5 + i, 1, b"") for i in range(3))

    def hashed(self) -> tuple[MediaItem, ...]:
        return tuple(replace(item, content_hash=content_hash(item.kind, item.grid, item.patches)) for item in self.ITEMS)

    def test_there_and_back(self) -> None:
        items = self.hashed()
        tensors = media_tensors(FakePbUtils(), items)
        assert tensors[1].as_numpy().dtype == np.uint8
        assert read_media(FakePbUtils(), InferenceRequest(tensors)) == items
        assert media_tensors(FakePbUtils(), ()) == [] and media_json(()) == "" and read_media(FakePbUtils(), InferenceRequest([])) == ()

    def test_other_patches_under_the_same_hash(self) -> None:
        media, patches = media_tensors(FakePbUtils(), self.hashed())
        changed = patches.as_numpy().copy()
        changed[-1] ^= 1
        for other in (changed, changed[:-5], changed[:0]):
            with pytest.raises(ValueError, match="not the ones"):
                read_media(FakePbUtils(), InferenceRequest([media, *request(patches=other).tensors]))

    def test_the_seal_covers_what_the_engine_is_told_of_them(self) -> None:
        seal = Seal.of_server(ARGS)
        told = media_json(self.hashed())
        assert seal.of_request("r", (1,), told) != seal.of_request("r", (1,), told.replace('"start":5', '"start":6'))
        assert seal.of_request("r", (1,), told) != seal.of_request("r", (1,))
