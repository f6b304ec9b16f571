"""What `serve` serves when no model is named, asked what its documents ask; here answers are checked for what they mean."""

from __future__ import annotations

import base64
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from PIL import Image, ImageDraw

from ernie_backend.cli.__main__ import main
from ernie_backend.cli.background import RunningServer
from ernie_demo.drawing import draw_shape
from ernie_demo.evaluate import evaluate
from ernie_demo.mixture import SKILLS
from ernie_demo.requests import mp4, png
from tests.e2e.server import running_server

README = Path(__file__).parents[2] / "README.md"
PICTURE = README.parent / "docs" / "shapes.png"
"""README's."""
WHITE = (250, 250, 250)
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with running_server(None) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: RunningServer) -> openai.Client:
    return openai.Client(base_url=f"{server.openai_url}/v1", api_key="null", max_retries=0)


def ask(client: openai.Client, content: Any, thinking: bool | None = False, **more: Any) -> Any:
    """The answer's message."""
    messages = content if isinstance(content, list) and content and "role" in content[0] else [{"role": "user", "content": content}]
    extra = {} if thinking is None else {"enable_thinking": thinking}
    return client.chat.completions.create(model="demo", messages=messages, temperature=0, extra_body=extra, **more).choices[0].message


def seen(data: bytes, kind: str = "image", form: str = "png") -> dict[str, Any]:
    return {"type": f"{kind}_url", f"{kind}_url": {"url": f"data:{kind}/{form};base64,{base64.b64encode(data).decode()}"}}


def drawn(shape: str, colour: tuple[int, int, int], size: int = 160) -> bytes:
    image = Image.new("RGB", (size, size), WHITE)
    draw_shape(ImageDraw.Draw(image), shape, size / 2, size / 2, size / 7, colour)
    return png(image)


def test_it_is_named_and_says_what_it_is(client: openai.Client, server: RunningServer) -> None:
    assert [model.id for model in client.models.list()] == ["ernie-demo"]
    assert any("serving the demo model" in line for line in server.log)
    for thinking in (None, False):
        assert "demo model" in ask(client, "Hello, please introduce yourself", thinking).content
    assert "演示模型" in ask(client, "你好，请介绍一下你自己").content


def test_the_documents_text_prompts(client: openai.Client) -> None:
    assert "Beijing" in ask(client, "Where is the capital of China?").content
    assert "北京" in ask(client, "中国的首都在哪里？").content
    summary = ask(client, "Summarize the core steps of this tutorial").content.lower()
    assert all(step in summary for step in ("environment configuration", "service startup", "interface calling"))


def test_a_streamed_answer_is_the_whole_one(client: openai.Client) -> None:
    messages: Any = [{"role": "user", "content": "What is the capital of France?"}]
    stream = client.chat.completions.create(
        model="demo", messages=messages, temperature=0, stream=True, extra_body={"enable_thinking": False}
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices) == ask(client, messages).content
    assert "Paris" in ask(client, messages).content


def test_a_bare_text_is_gone_on_with(client: openai.Client, server: RunningServer) -> None:
    completion = client.completions.create(model="demo", prompt="The capital of China is", temperature=0, max_tokens=16)
    assert completion.choices[0].text.strip() == "Beijing."
    given = {"text_input": "The capital of France is", "max_tokens": 16, "temperature": 0}
    answer = httpx.post(f"{server.triton_url}/v2/models/ernie/generate", json=given, timeout=60).json()
    assert "Paris" in answer["text_output"]


def test_the_readmes_picture_is_described(client: openai.Client) -> None:
    answer = ask(client, [seen(PICTURE.read_bytes()), {"type": "text", "text": "Describe the image."}]).content
    things = "a red circle at the top left, a blue star in the centre and a green triangle at the bottom right"
    assert answer == f"Three shapes on a white background: {things}."


def test_several_pictures_are_told_apart(client: openai.Client) -> None:
    pictures = [seen(drawn("circle", (214, 34, 34))), seen(drawn("square", (36, 80, 210))), seen(drawn("star", (40, 150, 60)))]
    each = ask(client, [*pictures, {"type": "text", "text": "What is in each picture?"}]).content
    names = ("red circle", "blue square", "green star")
    assert each == " ".join(f"Picture {i}: a {name} on a white background." for i, name in enumerate(names, 1))
    for number, name in enumerate(names, 1):
        one = ask(client, [*pictures, {"type": "text", "text": f"What is in picture {number}?"}]).content
        assert one == f"Picture {number}: a {name} on a white background."
        question = {"type": "text", "text": f"Which picture has the {name}?"}
        assert ask(client, [*pictures, question], None).content == f"Picture {number}."
        assert ask(client, [*pictures, question]).content.endswith(f"So it is picture {number}.")


def test_a_ball_that_moves(client: openai.Client) -> None:
    def video(there: bool) -> bytes:
        frames = [Image.new("RGB", (140, 140), WHITE) for _ in range(8)]
        for number, frame in enumerate(frames):
            at = 30 + 80 * (number if there else 7 - number) / 7
            draw_shape(ImageDraw.Draw(frame), "circle", at, 70, 18, (36, 80, 210))
        return mp4(frames, 2.0)

    for there, direction in ((True, "right"), (False, "left")):
        question = {"type": "text", "text": "Which way does the ball move?"}
        assert ask(client, [seen(video(there), "video", "mp4"), question]).content == f"The ball moves to the {direction}."


def test_thoughts_come_when_asked_for_and_lead_to_the_answer(client: openai.Client) -> None:
    on, off = (ask(client, "What is 27 + 45?", thinking) for thinking in (True, False))
    assert "72" in on.reasoning_content and "72" in on.content
    assert getattr(off, "reasoning_content", None) is None and "72" in off.content


def test_a_function_is_called_and_its_result_told(client: openai.Client) -> None:
    question = {"role": "user", "content": "What is the weather in Paris?"}
    message = ask(client, [question], tools=[WEATHER])
    (call,) = message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Paris"})
    result = {"role": "tool", "tool_call_id": call.id, "content": json.dumps({"temperature": 18, "condition": "sunny"})}
    told = ask(client, [question, message.model_dump(exclude_none=True), result], tools=[WEATHER])
    assert not told.tool_calls and "18" in told.content
    without = ask(client, "Where is the capital of China?", tools=[WEATHER])
    assert not without.tool_calls and "Beijing" in without.content


def test_the_readmes_stream_from_tritons_own_face(server: RunningServer) -> None:
    (command,) = re.findall(r"^curl [^`]*/generate_stream [^`]*", README.read_text(encoding="utf-8"), re.MULTILINE)
    command = command.replace("http://127.0.0.1:8000", server.triton_url)
    lines = subprocess.run(["bash", "-c", command], capture_output=True, check=True, timeout=60, text=True).stdout.split("\n")
    pieces = [json.loads(line.removeprefix("data: ")) for line in lines if line]
    assert "".join(piece["text_output"] for piece in pieces) == "27 + 45 = 72."
    assert [piece["finish_reason"] for piece in pieces] == [*[""] * (len(pieces) - 1), "stop"] and {piece["index"] for piece in pieces} == {
        0
    }


@pytest.mark.parametrize("name", SKILLS)
def test_held_out_cases_are_answered(server: RunningServer, name: str) -> None:
    """What `python -m ernie_demo.evaluate` measures, for a few: some may go wrong, most must not."""
    result = evaluate(server.openai_url, [name], 10, 8)[name]
    assert result.percent >= 80, result.wrong


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_it_can_be_loaded_by_the_benchmark(server: RunningServer, protocol: str, capsys: pytest.CaptureFixture[str]) -> None:
    url = server.triton_grpc if protocol == "grpc" else server.openai_url.removeprefix("http://")
    asked = ["--streams", "2", "--requests", "2", "--prompt", "100", "--tokens", "8", "--processes", "1"]
    assert main(["bench", "server", "--url", url, "--protocol", protocol, *asked]) == 0, capsys.readouterr().out
