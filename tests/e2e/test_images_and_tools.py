"""Images, thoughts, tools and grammars in one request: what each part promises holds beside the others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

from ernie_backend.cli.__main__ import main
from ernie_backend.cli.background import RunningServer
from tests.e2e.server import running_server
from tests.e2e.test_media import CAT, SIZES, content, data_url, image, usage
from tests.e2e.test_media import ask as ask_over_http
from tests.e2e.test_thinking_and_tools import PERSON, ask, streamed
from tests.media.conftest import encoded, picture

ZOOM: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "image_zoom_in_tool",
        "description": "Zoom in on a region of an image by cropping it to a box, with an optional label.",
        "parameters": {
            "type": "object",
            "properties": {
                "bbox_2d": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 999}, "minItems": 4, "maxItems": 4},
                "label": {"type": "string", "maxLength": 12},
                "img_idx": {"type": "integer", "minimum": 0, "maximum": 3},
            },
            "additionalProperties": False,
            "required": ["img_idx", "bbox_2d"],
        },
    },
}
LOOK = [{"role": "user", "content": [image(data_url(encoded(CAT))), {"type": "text", "text": "What is in the corner?"}]}]
IMAGE_TOKENS = 154
THINKING = pytest.mark.parametrize("thinking", [True, False])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("models") / "ernie-vl-thinking"
    like = ["--like", "ERNIE-4.5-VL-28B-A3B-Thinking", "--dtype", "float32"]
    assert main(["random-checkpoint", *like, "--out", str(folder), "--set", *SIZES]) == 0
    flags = {"reasoning_parser": "ernie-45-vl-thinking", "tool_call_parser": "ernie-45-vl-thinking"}
    with running_server(folder, max_model_len=4096, max_num_seqs=8, limit_mm_per_prompt=json.dumps({"image": 4}), **flags) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: RunningServer) -> openai.Client:
    return openai.Client(base_url=f"{server.openai_url}/v1", api_key="null", max_retries=0)


def image_tokens(answer: Any) -> int:
    return answer.usage.prompt_tokens_details.image_tokens


@THINKING
def test_a_call_about_an_image_and_its_result(client: openai.Client, thinking: bool) -> None:
    """The zoomed image goes back as the tool's result, beside the message as the client got it."""
    fields: dict[str, Any] = {
        "tools": [ZOOM], "tool_choice": "required", "parallel_tool_calls": False, "extra": {"metadata": {"enable_thinking": thinking}},
    }  # fmt: skip
    answer = ask(client, LOOK, **fields)
    (choice,) = answer.choices
    (call,) = choice.message.tool_calls
    arguments = json.loads(call.function.arguments)
    assert call.function.name == "image_zoom_in_tool" and len(arguments["bbox_2d"]) == 4 and 0 <= arguments["img_idx"] <= 3
    assert (choice.finish_reason, choice.message.content, image_tokens(answer)) == ("tool_calls", None, IMAGE_TOKENS)
    assert bool(getattr(choice.message, "reasoning_content", None)) is thinking
    parts = streamed(client, messages=LOOK, **fields)
    assert [(c["name"], c["arguments"]) for c in parts["calls"].values()] == [("image_zoom_in_tool", call.function.arguments)]
    assert parts["reasoning_content"] == (getattr(choice.message, "reasoning_content", None) or "")

    zoomed = [{"type": "text", "text": "Zoomed in:"}, image(data_url(encoded(picture(112, 56))))]
    history = [*LOOK, choice.message.model_dump(), {"role": "tool", "tool_call_id": call.id, "content": zoomed}]
    after = ask(client, history, **{**fields, "tool_choice": "auto", "max_tokens": 12})
    assert image_tokens(after) == IMAGE_TOKENS + 8 and after.usage.prompt_tokens_details.cached_tokens > IMAGE_TOKENS


@THINKING
def test_an_answer_about_an_image_keeps_to_a_schema(client: openai.Client, thinking: bool) -> None:
    response_format = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}
    fields: dict[str, Any] = {"response_format": response_format, "extra": {"enable_thinking": thinking}}
    answer = ask(client, LOOK, **fields)
    (choice,) = answer.choices
    assert set(json.loads(choice.message.content)) == {"name", "age", "tags"} and choice.finish_reason == "stop"
    assert image_tokens(answer) == IMAGE_TOKENS
    assert (answer.usage.completion_tokens_details.reasoning_tokens > 0) is thinking
    assert streamed(client, messages=LOOK, **fields)["content"] == choice.message.content


def test_many_at_once_keep_their_own_images_and_grammars(server: RunningServer) -> None:
    """Grammars are tried out in one helper process while pool threads finish the requests before them."""

    def one(number: int) -> tuple[Any, int]:
        look = image(data_url(encoded(picture(56, 56 * (1 + number), seed=number))))
        rules = {"guided_choice": [f"answer {number}"], "ignore_eos": False, "enable_thinking": number % 2 == 0, "reasoning_max_tokens": 4}
        answer = ask_over_http(server, "What is this?", look, max_tokens=60, **rules)
        return content(answer)["content"], usage(answer)["image_tokens"]

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(one, range(12)))
    assert answers == [(f"answer {number}", 4 * (1 + number)) for number in range(12)]


def test_a_bad_image_or_tool_is_named_beside_the_other(server: RunningServer) -> None:
    def refusal(messages: Any, tools: Any) -> str:
        response = httpx.post(f"{server.openai_url}/v1/chat/completions", json={"messages": messages, "tools": tools}, timeout=60)
        assert response.status_code == 400, response.text
        return response.json()["error"]["param"]

    broken = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {"type": "objekt"}}}}}
    no_image = [{"role": "user", "content": [{"type": "text", "text": "a"}, image(data_url(b"this is no image at all"))]}]
    assert refusal(LOOK, [ZOOM, broken]) == "tools[1].function.parameters.properties.a.type"
    assert refusal(no_image, [ZOOM]) == "messages[0].content[1]"
