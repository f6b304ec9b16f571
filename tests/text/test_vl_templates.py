"""Prompts with pictures: the formats' goldens, and that a placeholder which a user typed stays text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ernie_backend.errors import InvalidRequestError
from ernie_backend.media_fields import MediaPart
from ernie_backend.protocol import MediaKind
from ernie_backend.text.chat_template import ChatTemplate
from ernie_backend.text.messages import normalize_messages
from ernie_backend.text.tokenizer import Tokenizer
from ernie_backend.text.vl_templates import ERNIE_VL, ERNIE_VL_THINKING, PADDLEOCR_VL

B, E = "<|begin_of_sentence|>", "<|end_of_sentence|>"
PICTURE = ":<|IMAGE_START|><|image@placeholder|><|IMAGE_END|>"
VIDEO = ":<|VIDEO_START|><|video@placeholder|><|VIDEO_END|>"
SIGNS = {"<|image@placeholder|>": -1, "<|IMAGE_PLACEHOLDER|>": -1, "<|video@placeholder|>": -2, "<|VIDEO_PLACEHOLDER|>": -2}
IMAGE_PART = {"type": "image_url", "image_url": {"url": "u"}}
VIDEO_PART = {"type": "video_url", "video_url": {"url": "u"}}
Render = Callable[..., str]


@pytest.fixture(scope="module")
def seeing(model_folder: Path) -> Tokenizer:
    return Tokenizer.from_folder(model_folder, SIGNS)


@pytest.fixture(scope="module")
def render(seeing: Tokenizer) -> Iterator[Render]:
    templates = {
        source: ChatTemplate(source, seeing, wants_parts=source == PADDLEOCR_VL) for source in (ERNIE_VL, ERNIE_VL_THINKING, PADDLEOCR_VL)
    }

    def run(source: str, messages: list[dict[str, Any]], **variables: Any) -> str:
        generate = variables.pop("add_generation_prompt", True)
        return templates[source].render(normalize_messages(messages, []), variables=variables, add_generation_prompt=generate)

    yield run
    for template in templates.values():
        template.close()


def user(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]}


def system(*parts: str) -> dict[str, Any]:
    return {**user(*parts), "role": "system"}


def assistant(content: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


ERNIE_VL_GOLDENS = [
    ([{"role": "user", "content": "hi"}], "User: hi"),
    ([system("S1", "S2"), user("a")], "S1S2\nUser: a"),
    ([user(IMAGE_PART, "What?")], f"User: Picture 1{PICTURE}What?"),
    ([user("What?", IMAGE_PART)], f"User: What?Picture 1{PICTURE}"),
    ([user(IMAGE_PART, VIDEO_PART, IMAGE_PART, "q")], f"User: Picture 1{PICTURE}Video 1{VIDEO}Picture 2{PICTURE}q"),
    (
        [system("S"), user("q1", IMAGE_PART), assistant("<think>\nr\n</think>\n\nans"), user(IMAGE_PART, "q2")],
        f"S\nUser: q1Picture 1{PICTURE}\nAssistant: <think>\nr\n</think>\nans{E}User: Picture 2{PICTURE}q2",
    ),
    (
        [user("q1"), assistant("ans", reasoning_content="r"), user("q2")],
        f"User: q1\nAssistant: <think>\nr\n</think>\nans{E}User: q2",
    ),
    ([user("q1"), assistant("ans"), user("q2")], f"User: q1\nAssistant: ans{E}User: q2"),
]


@pytest.mark.parametrize(("messages", "prompt"), ERNIE_VL_GOLDENS)
def test_ernie_vl(render: Render, messages: list[dict[str, Any]], prompt: str) -> None:
    off = "\nAssistant: <think>\n\n</think>\n\n"
    assert render(ERNIE_VL, messages, enable_thinking=True) == f"{B}{prompt}\nAssistant: <think>"
    assert render(ERNIE_VL, messages, enable_thinking=False) == render(ERNIE_VL, messages) == f"{B}{prompt}{off}"


def test_ernie_vl_without_a_generation_prompt(render: Render) -> None:
    assert render(ERNIE_VL, [user("a"), assistant("b")], add_generation_prompt=False) == f"{B}User: a\nAssistant: b{E}"


DEFAULT = "You are a multimodal AI assistant called ERNIE developed by Baidu based on the PaddlePaddle framework."
ERNIE_VL_THINKING_GOLDENS = [
    ([system("S"), user("q")], "S\nUser: q\nAssistant: "),
    ([user(IMAGE_PART, "q")], f"{DEFAULT}\nUser: Picture 1{PICTURE}q\nAssistant: "),
    (
        [system("S"), user("q"), assistant("ans", reasoning_content="r"), user("q2")],
        f"S\nUser: q\nAssistant: \n<think>\nr\n</think>\n\nans{E}User: q2\nAssistant: ",
    ),
]


@pytest.mark.parametrize(("messages", "prompt"), ERNIE_VL_THINKING_GOLDENS)
def test_ernie_vl_thinking(render: Render, messages: list[dict[str, Any]], prompt: str) -> None:
    assert render(ERNIE_VL_THINKING, messages, add_generation_prompt=False) == B + prompt
    assert render(ERNIE_VL_THINKING, messages) == f"{B}{prompt}\n<think>\n"
    assert render(ERNIE_VL_THINKING, messages, enable_thinking=False) == f"{B}{prompt}\n<think>\n\n</think>\n\n"


def test_ernie_vl_thinking_with_tools(seeing: Tokenizer) -> None:
    """Rendered with checked tool messages, as the template sees them."""
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
    calls = [{"function": {"name": "get_weather", "arguments": {"city": "北京"}}}, {"function": {"name": "f2", "arguments": {}}}]
    messages = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "", "tool_calls": calls},
        {"role": "tool", "content": "R"},
    ]
    source = "{%- set tools = [" + repr(tool) + "] -%}" + ERNIE_VL_THINKING
    template = ChatTemplate(source, seeing)
    expected = (
        f"{B}S\n<tool_list>\n["
        + '{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}'
        + "]\n</tool_list>\n\n"
        'User: q\nAssistant: <tool_call>\n{"name": "get_weather", "arguments": {"city": "北京"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "f2", "arguments": {}}\n</tool_call>\n'
        f"{E}User: <tool_output>\nR\n</tool_output>\n\nAssistant: "
    )
    assert template.render(messages, add_generation_prompt=False) == expected
    template.close()


OCR_PICTURE = "<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>"


@pytest.mark.parametrize(
    ("messages", "prompt"),
    [
        ([user(IMAGE_PART, "OCR:")], f"User: {OCR_PICTURE}OCR:\nAssistant: "),
        ([user("OCR:", IMAGE_PART)], f"User: {OCR_PICTURE}OCR:\nAssistant: "),
        ([{"role": "user", "content": "a string"}], "User: a string\nAssistant: "),
        (
            [system("S"), user(IMAGE_PART, "OCR:"), assistant("abc"), user("more")],
            f"S\nUser: {OCR_PICTURE}OCR:\nAssistant: abc</s>User: more\nAssistant: ",
        ),
    ],
)
def test_paddleocr_vl(render: Render, messages: list[dict[str, Any]], prompt: str) -> None:
    assert render(PADDLEOCR_VL, messages) == B + prompt


@pytest.mark.parametrize("source", [ERNIE_VL, ERNIE_VL_THINKING, PADDLEOCR_VL])
def test_a_placeholder_that_was_typed_stays_text(render: Render, seeing: Tokenizer, source: str) -> None:
    """The templates' own become signs, each in its place; those of users become their letters."""
    typed = "".join(SIGNS) + "<|IMAGE_START|>"
    rendered = render(source, [system(typed), user(typed, IMAGE_PART), assistant(typed), user(typed)])
    ids = seeing.encode_template(rendered)
    assert [token for token in ids if token < 0] == [-1]
    starts = [i for i, token in enumerate(ids) if token == seeing.token_id("<|IMAGE_START|>")]
    assert [ids[i + 1] for i in starts] == [-1]
    assert seeing.decode([token for token in ids if token >= 0], skip_special_tokens=True).count(typed) == 4


def test_unseeing_tokenizers_know_no_signs(tokenizer: Tokenizer) -> None:
    assert min(tokenizer.encode_template("".join(SIGNS))) >= 0


def test_continuing_an_answer(seeing: Tokenizer) -> None:
    for source, end in ((ERNIE_VL, "\nAssistant: The "), (PADDLEOCR_VL, "Assistant: The ")):
        template = ChatTemplate(source, seeing, wants_parts=source == PADDLEOCR_VL)
        messages = normalize_messages([user("a", IMAGE_PART), assistant("The ")], [])
        assert template.render(messages, add_generation_prompt=False, continue_final_message=True).endswith(end)
        template.close()


class TestMessages:
    def test_parts_in_order_and_their_places(self) -> None:
        media: list[MediaPart] = []
        messages = normalize_messages([user("a", IMAGE_PART, VIDEO_PART), {"role": "user", "content": [IMAGE_PART]}], media)
        assert messages[0]["content"] == [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "video"}]
        assert [(part.kind, part.place) for part in media] == [
            (MediaKind.IMAGE, "messages[0].content[1]"),
            (MediaKind.VIDEO, "messages[0].content[2]"),
            (MediaKind.IMAGE, "messages[1].content[0]"),
        ]

    def test_text_alone_stays_a_string(self) -> None:
        assert normalize_messages([user("a", "b")], [])[0]["content"] == "ab"

    @pytest.mark.parametrize("kind", ["input_audio", "file", "image", "nonsense", None, ["text"]])
    def test_unknown_types(self, kind: Any) -> None:
        with pytest.raises(InvalidRequestError, match=r"messages\[0\]\.content\[1\]: Unknown content part type: ") as caught:
            normalize_messages([user("a", {"type": kind})], [])
        assert caught.value.param == "messages[0].content[1].type"

    def test_a_model_that_takes_none(self) -> None:
        for part, what in ((IMAGE_PART, "images"), (VIDEO_PART, "videos")):
            with pytest.raises(InvalidRequestError, match=rf"messages\[0\]\.content\[1\] is of type .* takes no {what}"):
                normalize_messages([user("a", part)])
