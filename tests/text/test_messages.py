"""Messages as users send them: what is brought into form, and what is refused by its place."""

from __future__ import annotations

from typing import Any

import pytest

from ernie_backend.errors import InvalidRequestError
from ernie_backend.text.messages import MAX_MESSAGES, normalize_messages


def test_roles_and_parts() -> None:
    assert normalize_messages(
        [
            {"role": "developer", "content": "S"},
            {"role": "user", "content": [{"type": "text", "text": "a "}, "b", {"type": "input_text", "text": " c"}], "name": "me"},
            {"role": "assistant", "content": "x", "tool_calls": [], "refusal": None, "audio": None},
        ]
    ) == [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "a b c", "name": "me"},
        {"role": "assistant", "content": "x"},
    ]


def test_what_clients_write_beside_a_text_has_no_effect() -> None:
    marked = {"cache_control": {"type": "ephemeral"}, "prompt_cache_breakpoint": {"mode": "explicit"}}
    numbered = {"id": "lc_1", "index": 0, "annotations": [], "extras": {"signature": "x"}, "colour": None}
    parts = [{"type": "text", "text": "a", **marked}, {"type": "text", "text": "b", **numbered}]
    assert normalize_messages([{"role": "user", "content": parts}]) == [{"role": "user", "content": "ab"}]


def test_a_refusal_in_the_history_is_what_the_assistant_said() -> None:
    parts = ["Well: ", {"type": "refusal", "refusal": "I ", "index": 0}, {"type": "text", "text": "cannot."}]
    assert normalize_messages([{"role": "assistant", "content": parts}], []) == [{"role": "assistant", "content": "Well: I cannot."}]


def test_known_roles_are_listed_with_tools_too() -> None:
    with pytest.raises(InvalidRequestError, match="must be one of system, developer, user, assistant, tool, got 'wizard'"):
        normalize_messages([{"role": "wizard", "content": "x"}], takes_tools=True)


@pytest.mark.parametrize("key", ["reasoning_content", "thoughts"])
def test_a_thought_in_the_history_is_kept(key: str) -> None:
    assert normalize_messages([{"role": "assistant", key: "hm"}]) == [{"role": "assistant", "reasoning_content": "hm", "content": ""}]


def user(content: Any, **more: Any) -> list[Any]:
    return [{"role": "user", "content": content, **more}]


@pytest.mark.parametrize(
    ("messages", "param", "words"),
    [
        (None, "messages", "missing"),
        ("hi", "messages", "must be a list"),
        ([], "messages", "empty list"),
        ([{"role": "user", "content": "a"}] * (MAX_MESSAGES + 1), "messages", f"at most {MAX_MESSAGES} messages"),
        (["hi"], "messages[0]", "must be an object"),
        ([{"content": "x"}], "messages[0].role", "must be one of system, developer, user, assistant, got null"),
        ([{"role": "wizard", "content": "x"}], "messages[0].role", "got 'wizard'"),
        ([{"role": ["user"], "content": "x"}], "messages[0].role", "got a list"),
        ([{"role": "tool", "content": "x"}], "messages[0].role", "takes no tools"),
        ([*user("x"), {"role": "assistant"}], "messages[1].content", "is missing"),
        (user(None), "messages[0].content", "is missing"),
        (user(5), "messages[0].content", "must be a string or a list of text parts, got a number"),
        (user({"text": "x"}), "messages[0].content", "got an object"),
        (user([5]), "messages[0].content[0]", "must be an object with type and text"),
        (user([{"type": "text", "text": "a", "colour": {}}]), "messages[0].content[0].colour", "Unknown field 'colour' in messages[0].con"),
        (user([{"type": "text", "text": 5}]), "messages[0].content[0].text", "must be a string"),
        (user([{"text": "x"}]), "messages[0].content[0].type", "must be 'text', got null"),
        (user(["x", {"type": "image_url", "image_url": {"url": "x"}}]), "messages[0].content[1]", "takes no images"),
        (user([{"type": "video_url"}]), "messages[0].content[0]", "takes no videos"),
        (user([{"type": "input_audio"}]), "messages[0].content[0]", "takes no audio"),
        (user([{"type": "refusal", "refusal": "x"}]), "messages[0].content[0].type", "must be 'text', got 'refusal'"),
        ([{"role": "assistant", "content": [{"type": "refusal"}]}], "messages[0].content[0].refusal", "must be a string, got null"),
        ([{"role": "assistant", "content": ["a", {"type": "refusal", "text": ""}]}], "messages[0].content[1].text", "Unknown field 'text'"),
        (user("x", colour="red"), "messages[0].colour", "Unknown field 'colour'"),
        (user("x", name=5), "messages[0].name", "must be a string"),
        (user("x", thoughts="y"), "messages[0].thoughts", "assistant messages only"),
        ([{"role": "assistant", "content": "", "tool_calls": [{}]}], "messages[0].tool_calls", "takes no tools"),
    ],
)
def test_refusals_name_the_place(messages: Any, param: str, words: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        normalize_messages(messages)
    assert caught.value.param == param
    assert words in caught.value.message
