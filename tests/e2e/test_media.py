"""Images and videos end to end: the documents' requests, what is cached, what is refused, and hostile hosts beside it all."""

from __future__ import annotations

import base64
import itertools
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from ernie_backend.cli.__main__ import main
from ernie_backend.cli.background import RunningServer
from tests.e2e.faults import helpers, neighbours
from tests.e2e.kserve import Stream
from tests.e2e.observe import wait_for_metric
from tests.e2e.server import running_server
from tests.media.conftest import encoded, picture
from tests.media.hostile_server import HostileServer, body, redirect
from tests.media.videos import video

LANGUAGE = "num_hidden_layers=2 hidden_size=64 intermediate_size=128 num_attention_heads=1 num_key_value_heads=1 head_dim=128"
EXPERTS = "moe_num_experts=[4,4] moe_intermediate_size=[64,32] moe_k=2"
TOWER = "depth=2 embed_dim=64 hidden_size=64 num_heads=2 mlp_ratio=2"
SIZES = [*LANGUAGE.split(), *EXPERTS.split(), *(f"vision_config.{size}" for size in TOWER.split()), "pixel_hidden_size=64"]
CAT = picture(300, 400)  # 154 tokens


@pytest.fixture(scope="module")
def seeing_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("models") / "ernie-vl-small"
    assert main(["random-checkpoint", "--like", "ERNIE-4.5-VL-28B-A3B", "--out", str(folder), "--dtype", "float32", "--set", *SIZES]) == 0
    limits = json.dumps({"image": 10, "video": 3})
    with running_server(
        folder, max_model_len=8192, max_num_seqs=8, allow_private_media="true", limit_mm_per_prompt=limits,
        allowed_local_media_path=_media_folder(tmp_path_factory),
    ) as running:  # fmt: skip
        yield running


def _media_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.getbasetemp() / "served-media"
    folder.mkdir(exist_ok=True)
    (folder / "cat.png").write_bytes(encoded(CAT))
    return folder


@pytest.fixture(scope="module")
def host() -> Iterator[HostileServer]:
    answers = {"/cat.png": body(encoded(CAT)), "/cat.bmp": body(encoded(CAT, "BMP")), "/clip.mp4": body(video(num_frames=90), "video/mp4")}
    server = HostileServer({**answers, "/loop": redirect("/loop"), "/page": body(b"<html>" * 20, "image/png")})
    yield server
    server.close()


def image(url: str, **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **more}}


def data_url(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def ask(server: RunningServer, *parts: Any, **fields: Any) -> httpx.Response:
    content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    request = {"messages": [{"role": "user", "content": content}], "max_tokens": 8, "temperature": 0, "ignore_eos": True, **fields}
    return httpx.post(f"{server.openai_url}/v1/chat/completions", json=request, timeout=120)


def usage(response: httpx.Response) -> dict[str, int]:
    assert response.status_code == 200, response.text
    return response.json()["usage"]["prompt_tokens_details"]


def content(response: httpx.Response) -> Any:
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["message"]


def test_the_documents_requests(seeing_server: RunningServer, host: HostileServer) -> None:
    """FastDeploy's, but for the address of the picture."""
    look = image(host.url("/cat.png"), detail="high")
    assert (
        usage(ask(seeing_server, look, "From which era does the artifact in the image originate?", metadata={"enable_thinking": False}))[
            "image_tokens"
        ]
        == 154
    )
    clip = {"type": "video_url", "video_url": {"url": host.url("/clip.mp4")}}
    counted = usage(ask(seeing_server, clip, "How many apples are in the scene?", chat_template_kwargs={"enable_thinking": False}))
    assert counted["image_tokens"] == 0 and counted["video_tokens"] == 2400


def test_streamed_by_the_openai_client(seeing_server: RunningServer, host: HostileServer) -> None:
    client = openai.OpenAI(base_url=f"{seeing_server.openai_url}/v1", api_key="null")
    messages: Any = [{"role": "user", "content": [image(host.url("/cat.png")), {"type": "text", "text": "What is this?"}]}]
    settings: Any = {"model": "default", "messages": messages, "max_tokens": 12, "temperature": 0}
    whole = client.chat.completions.create(**settings).choices[0].message.content
    chunks = client.chat.completions.create(**settings, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole


def test_what_counts_is_pixels_and_not_addresses(
    seeing_server: RunningServer, host: HostileServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    local = f"file://{_media_folder(tmp_path_factory)}/cat.png"
    urls = [host.url("/cat.png"), host.url("/cat.bmp"), data_url(encoded(CAT)), local]
    answers = [ask(seeing_server, "the same picture", image(url), "four times") for url in urls]
    assert len({json.dumps(content(answer)) for answer in answers}) == 1
    assert all(usage(answer)["cached_tokens"] > 100 for answer in answers[1:])
    other = ask(seeing_server, "the same picture", image(data_url(encoded(picture(300, 400, seed=1)))), "four times")
    assert usage(other)["cached_tokens"] < 100


def test_several_items_and_settings(seeing_server: RunningServer, host: HostileServer) -> None:
    small = image(host.url("/cat.png"), image_width=112, image_height=56)
    clip = {"type": "video_url", "video_url": {"url": host.url("/clip.mp4"), "max_frames": 16}}
    counted = usage(
        ask(seeing_server, small, "a", clip, "b", image(host.url("/cat.png")), mm_processor_kwargs={"video_max_pixels": 240_000})
    )
    assert counted["image_tokens"] == 8 + 154 and 0 < counted["video_tokens"] < 2600


def test_the_kserve_face_takes_base64(seeing_server: RunningServer) -> None:
    prompt = "<|IMAGE_START|><|image@placeholder|><|IMAGE_END|>What is this?"
    body = {"text_input": prompt, "image": [base64.b64encode(encoded(CAT)).decode()], "max_tokens": 4, "stream": False}
    answer = httpx.post(f"{seeing_server.triton_url}/v2/models/ernie/generate", json=body, timeout=60)
    assert answer.status_code == 200 and json.loads(answer.json()["usage"])["image_tokens"] == 154


@pytest.mark.parametrize("thinking", [True, False])
def test_an_answer_keeps_to_a_form_with_and_without_a_thought(seeing_server: RunningServer, host: HostileServer, thinking: bool) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "cats", "schema": {"type": "array", "items": {"enum": ["cat"]}, "maxItems": 2}}}
    drawn = {"temperature": 1, "seed": 1, "ignore_eos": False}  # greedily, these weights think of nothing but <think>
    settings = {"response_format": form, "enable_thinking": thinking, "reasoning_max_tokens": 4, "max_tokens": 60, **drawn}
    answer = ask(seeing_server, image(host.url("/cat.png")), "Which animals are these?", **settings)
    assert json.loads(content(answer)["content"]) in ([], ["cat"], ["cat", "cat"])
    assert usage(answer)["image_tokens"] == 154 and bool(content(answer).get("reasoning_content")) is thinking


@pytest.mark.parametrize(
    ("parts", "param", "words"),
    [
        (["a", {"type": "hologram"}], "messages[0].content[1].type", "Unknown content part type: 'hologram'"),
        (["a", image(data_url(b"this is no image at all"))], "messages[0].content[1]", "is not an image"),
        (["a", image(data_url(encoded(picture(3000, 3000))[:100_000]))], "messages[0].content[1]", "truncated or broken"),
        ([image(data_url(encoded(CAT)))] * 11, "messages[0].content[10]", "got 11 but limit is 10"),
        (["a", {"type": "video_url", "video_url": {"url": data_url(encoded(CAT))}}], "messages[0].content[1]", "is not a video"),
        (["a", image("http://169.254.169.254/latest/meta-data/")], "messages[0].content[1]", "not public"),
        (["a", image("file:///etc/passwd")], "messages[0].content[1]", "does not exist as a file below the folder"),
        (["a", image("HOST/loop")], "messages[0].content[1]", "redirects more than 3 times"),
        (["a", image("HOST/page")], "messages[0].content[1]", "is not an image"),
        (["a", image("HOST/missing")], "messages[0].content[1]", "status 404"),
    ],
)  # fmt: skip
def test_bad_input_is_400_and_names_the_part(
    seeing_server: RunningServer, host: HostileServer, parts: list[Any], param: str, words: str
) -> None:
    parts = json.loads(json.dumps(parts).replace("HOST", host.url("")))
    answer = ask(seeing_server, *parts)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert words in error["message"] and "127.0.0.1" not in error["message"]


def test_nobody_waits_for_a_host_that_hangs(seeing_server: RunningServer, host: HostileServer) -> None:
    release = threading.Event()
    host.answers["/hang"] = lambda *_: release.wait(60)
    begun = len(host.requests)
    with ThreadPoolExecutor(24) as pool:
        stuck = [pool.submit(ask, seeing_server, image(host.url("/hang"))) for _ in range(24)]
        while len(host.requests) < begun + 24:
            assert not release.wait(0.05)
        for _ in range(3):
            assert content(ask(seeing_server, "text goes on"))
            assert usage(ask(seeing_server, image(host.url("/cat.png"))))["image_tokens"] == 154
        assert not any(each.done() for each in stuck)
        release.set()
        assert {each.result().status_code for each in stuck} == {400}


class Downloads:
    """Of a file that never comes; counts those under way. Each ends when the fetching side closes its connection."""

    def __init__(self, host: HostileServer) -> None:
        self.url = host.url("/never")
        self.begun = self.ended = 0
        host.answers["/never"] = self._serve

    def _serve(self, connection: socket.socket, _: HostileServer) -> None:
        self.begun += 1
        connection.recv(1)
        self.ended += 1

    def wait(self, begun: int, ended: int, seconds: float = 15) -> None:
        """Far less than the 30 s that a download may take."""
        deadline = time.monotonic() + seconds
        while (self.begun, self.ended) != (begun, ended):
            assert time.monotonic() < deadline, f"{self.begun} began and {self.ended} ended"
            time.sleep(0.02)


def abort(server: RunningServer, **which: Any) -> dict[str, list[str]]:
    """Which answers were found."""
    answer = httpx.post(f"{server.openai_url}/v1/abort_requests", json=which, timeout=20)
    assert answer.status_code == 200, answer.text
    result: dict[str, list[str]] = answer.json()["result"]
    return result


def test_an_abort_reaches_what_is_still_fetched(seeing_server: RunningServer, host: HostileServer) -> None:
    downloads = Downloads(host)
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(ask, seeing_server, image(downloads.url), stream=i == 2) for i in range(3)]
        downloads.wait(3, 0)
        result = abort(seeing_server, abort_all=True)
        answers = [each.result() for each in asked]
    downloads.wait(3, 3)
    assert len(result["aborted"]) == 3 and result["not_found"] == []
    assert [(answer.status_code, answer.json()["error"]["code"]) for answer in answers] == [(499, "request_aborted")] * 3
    assert abort(seeing_server, req_ids=result["aborted"]) == {"aborted": [], "not_found": result["aborted"]}, "they are gone"


def test_an_abort_reaches_a_grammar_that_compiles(seeing_server: RunningServer) -> None:
    """However long it would take: the helper processes that try grammars out are stopped."""
    numbers = itertools.count(1)

    def guided() -> httpx.Response:
        return ask(seeing_server, "x", guided_regex=f"[cd]{{{next(numbers)}}}", ignore_eos=False)

    while len(helpers(seeing_server, "grammar_worker")) < 2:  # one in each of the two preprocess processes, started when first needed
        assert guided().status_code == 200
    stopped = helpers(seeing_server, "grammar_worker")
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(guided)
        while not abort(seeing_server, abort_all=True)["aborted"]:
            assert not asked.done()
        assert asked.result().json()["error"]["code"] == "request_aborted"
    left = set(stopped) & set(helpers(seeing_server, "grammar_worker"))
    assert len(left) == 1, "the one at work was ended"
    os.kill(left.pop(), signal.SIGCONT)
    assert [guided().status_code for _ in range(4)] == [200] * 4


def test_nobody_fetches_for_clients_that_have_left(seeing_server: RunningServer, host: HostileServer) -> None:
    """From every side on which Triton can tell; each leaves while its picture is on its way."""
    downloads = Downloads(host)
    parts = [image(downloads.url)]
    chat = {"messages": [{"role": "user", "content": parts}]}
    streams = [Stream(seeing_server.triton_grpc, stream=stream, chat=chat) for stream in (True, False)]
    leaving = []
    for path, asked in (
        ("/v1/chat/completions", chat | {"stream": True}),
        ("/v1/chat/completions", chat),
        ("/v2/models/ernie/generate_stream", {"chat": json.dumps(chat), "stream": True}),
    ):
        url = httpx.URL(seeing_server.openai_url if path.startswith("/v1") else seeing_server.triton_url)
        connection = socket.create_connection((url.host, url.port))
        data = json.dumps(asked).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        connection.sendall(head.encode() + data)
        leaving.append(connection)
    downloads.wait(5, 0)
    for stream in streams:
        stream.cancel()
    for connection in leaving:
        connection.close()
    downloads.wait(5, 5)
    assert content(ask(seeing_server, "the server goes on"))
    wait_for_metric(seeing_server, "ernie_requests_in_preparation", 0)


def test_killed_decoders_are_replaced(seeing_server: RunningServer) -> None:
    """Between two pictures nobody notices; the answers beside them go on."""
    first = content(ask(seeing_server, "look", image(data_url(encoded(picture(60, 90, seed=5))))))
    with neighbours(seeing_server, 200) as both:
        for pid in helpers(seeing_server, "decode_worker"):
            os.kill(pid, signal.SIGKILL)
        answers = [ask(seeing_server, "look", image(data_url(encoded(picture(60, 90, seed=seed))))) for seed in (6, 7, 8)]
        assert [each.end() for each in both] == ["length", "length"]
    assert [answer.status_code for answer in answers] == [200] * 3, [answer.text for answer in answers]
    assert content(ask(seeing_server, "look", image(data_url(encoded(picture(60, 90, seed=5)))))) == first
