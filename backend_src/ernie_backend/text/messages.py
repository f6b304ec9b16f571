"""Checks the messages of a chat request and brings them into the one form that text templates take; knows no template and no tokens.

What comes out: a list of {role, content, …} with roles system, user, assistant, tool; content is a string, or, where it holds an image or a
video, a list of parts {type: text, text}, {type: image} and {type: video}. Whatever cannot be rendered is refused by its place
(`messages[2].content[0]`); nothing is dropped silently.
"""

from __future__ import annotations

import json
from typing import Any

from ..errors import InvalidRequestError, json_kind
from ..known_fields import WITHOUT_EFFECT, check_known, unknown_field
from ..media_fields import MEDIA_TYPES, MediaPart, read_media_part
from .tools import TOOL_ROLES, check_tool_results, normalize_tool_calls, order_of_results

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
"""And what each counts as."""
_OTHER_TYPES = ("image", "input_image", "video", "input_audio", "audio_url", "file")
"""Of parts that other APIs know."""

MAX_MESSAGES = 16_384
"""A message is some eight tokens at least: more fit into no context, and checking and rendering them would take seconds."""

Message = dict[str, Any]


def normalize_messages(given: Any, media: list[MediaPart] | None = None, *, takes_tools: bool = False) -> list[Message]:
    """The checked messages. `developer` counts as `system`; text parts are joined as they stand; a thought in the history is kept.

    `media`: gets the images and videos, in order. None: the model takes none.
    `takes_tools`: the template knows tool calls and their results; without it they are refused. Results come out in the order of their
    calls, because templates show no ids.
    """
    if given is None:
        raise InvalidRequestError("messages is missing.", param="messages", code="missing_required_parameter")
    if not isinstance(given, list):
        raise InvalidRequestError(f"messages must be a list of messages, got {json_kind(given)}.", param="messages")
    if not given:
        raise InvalidRequestError("messages must not be an empty list.", param="messages")
    if len(given) > MAX_MESSAGES:
        raise InvalidRequestError(f"messages may hold at most {MAX_MESSAGES} messages, got {len(given)}.", param="messages")
    order = order_of_results(given) if takes_tools else range(len(given))
    messages = {i: _message(given[i], f"messages[{i}]", media, takes_tools) for i in order}
    check_tool_results([messages[i] for i in range(len(given))])
    return list(messages.values())


def check_unread(given: Any) -> None:
    """Of messages beside a prompt of token ids, which takes their place: text does no harm, but images and videos would be missed.
    (FastDeploy puts those where the ids have markers.)"""
    if not isinstance(given, list | None):
        raise InvalidRequestError(f"messages must be a list of messages, got {json_kind(given)}.", param="messages")
    for i, message in enumerate(given or ()):
        if not isinstance(message, dict):
            place = f"messages[{i}]"
            raise InvalidRequestError(f"{place} must be an object with role and content, got {json_kind(message)}.", param=place)
        parts = message.get("content")
        for j, part in enumerate(parts if isinstance(parts, list) else ()):
            if isinstance(part, dict) and part.get("type") in (*MEDIA_TYPES, *_OTHER_TYPES):
                place = f"messages[{i}].content[{j}]"
                raise InvalidRequestError(f"{place}: a prompt of token ids brings no images, videos or files. Leave one out.", param=place)


_IN_A_MESSAGE = ("role", "content", "name", "reasoning_content", "tool_calls")
OF_AN_ANSWER = frozenset(
    (
        "refusal",
        "annotations",
        "audio",
        "multimodal_content",
        "prompt_token_ids",
        "completion_token_ids",
        "prompt_tokens",
        "completion_tokens",
    )
)
"""What servers put into an answer's message, ours included: clients send it back as history, where it says nothing."""


def _message(given: Any, place: str, media: list[MediaPart] | None, takes_tools: bool) -> Message:
    if not isinstance(given, dict):
        raise InvalidRequestError(f"{place} must be an object with role and content, got {json_kind(given)}.", param=place)
    message: Message = {"role": _role(given.get("role"), f"{place}.role", takes_tools)}
    content = _content_of(message["role"], given.get("content"), f"{place}.content", media)
    thought = _thought(given, place)
    if thought is not None:
        message["reasoning_content"] = thought
    for key, value in given.items():
        if key in ("role", "content", "reasoning_content", "thoughts") or value is None or (key == "tool_calls" and value == []):
            continue
        if key in OF_AN_ANSWER and message["role"] == "assistant":
            continue
        message[key] = _other_field(key, value, message["role"], place, takes_tools)
    if content is None:
        if thought is None and "tool_calls" not in message:
            raise InvalidRequestError(f"{place}.content is missing: give a string or a list of text parts.", param=f"{place}.content")
        content = ""  # an answer that was cut off within its thought, or consists of calls
    message["content"] = content
    return message


def _other_field(key: str, value: Any, role: str, place: str, takes_tools: bool) -> Any:
    if key == "tool_calls":
        if not takes_tools:
            raise InvalidRequestError(f"{place}.tool_calls: this model takes no tools.", param=f"{place}.tool_calls")
        if role != "assistant":
            raise InvalidRequestError(f"{place}.tool_calls belongs into assistant messages only.", param=f"{place}.tool_calls")
        return normalize_tool_calls(value, f"{place}.tool_calls")
    if key != "name" and not (key == "tool_call_id" and role == "tool"):
        raise unknown_field(key, (*_IN_A_MESSAGE, *(("tool_call_id",) if role == "tool" else ())), place)
    if not isinstance(value, str):
        raise InvalidRequestError(f"{place}.{key} must be a string, got {json_kind(value)}.", param=f"{place}.{key}")
    return value


def _role(role: Any, place: str, takes_tools: bool) -> str:
    if role in TOOL_ROLES:
        if not takes_tools:
            raise InvalidRequestError(f"{place} is {role!r}, but this model takes no tools.", param=place)
        return "tool"
    if not isinstance(role, str) or role not in _ROLES:
        shown = repr(role[:40]) if isinstance(role, str) else json_kind(role)
        known = (*_ROLES, "tool") if takes_tools else _ROLES
        raise InvalidRequestError(f"{place} must be one of {', '.join(known)}, got {shown}.", param=place)
    return _ROLES[role]


def _thought(given: dict[str, Any], place: str) -> str | None:
    """`reasoning_content`; older clients call it `thoughts`."""
    for key in ("reasoning_content", "thoughts"):
        if given.get(key) is None:
            continue
        if given.get("role") != "assistant":
            raise InvalidRequestError(f"{place}.{key} belongs into assistant messages only.", param=f"{place}.{key}")
        thought = _content(given[key], f"{place}.{key}", None)
        assert not isinstance(thought, list), "without media, parts are joined"
        return thought
    return None


def _content_of(role: str, content: Any, place: str, media: list[MediaPart] | None) -> str | list[dict[str, str]] | None:
    if role == "tool" and isinstance(content, dict):  # FastDeploy's documents hand a result over as it is
        return json.dumps(content, ensure_ascii=False)
    if role == "assistant" and isinstance(content, list):
        content = [_without_refusal(part, f"{place}[{i}]") for i, part in enumerate(content)]
    return _content(content, place, media)


def _without_refusal(part: Any, place: str) -> Any:
    """The part of an answer; one that says why OpenAI's model gave none is a text part."""
    if not isinstance(part, dict) or part.get("type") != "refusal":
        return part
    check_known(part, ("type", "refusal"), place, without_effect=WITHOUT_EFFECT)
    if not isinstance(part.get("refusal"), str):
        raise InvalidRequestError(f"{place}.refusal must be a string, got {json_kind(part.get('refusal'))}.", param=f"{place}.refusal")
    return {"type": "text", "text": part["refusal"]}


def _content(content: Any, place: str, media: list[MediaPart] | None) -> str | list[dict[str, str]] | None:
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InvalidRequestError(f"{place} must be a string or a list of text parts, got {json_kind(content)}.", param=place)
    parts = [_part(part, f"{place}[{i}]", media) for i, part in enumerate(content)]
    if all(part["type"] == "text" for part in parts):
        return "".join(part["text"] for part in parts)
    return parts


def _part(part: Any, place: str, media: list[MediaPart] | None) -> dict[str, str]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if not isinstance(part, dict):
        raise InvalidRequestError(f"{place} must be an object with type and text, got {json_kind(part)}.", param=place)
    kind = part.get("type")
    if media is not None and kind in MEDIA_TYPES:
        media.append(read_media_part(part, place))
        return {"type": media[-1].kind.value}
    if kind in MEDIA_TYPES or (kind in _OTHER_TYPES and media is None):
        what = "audio" if "audio" in kind else "videos" if "video" in kind else "files" if kind == "file" else "images"
        raise InvalidRequestError(f"{place} is of type {kind!r}, but this model takes no {what}, only text.", param=place)
    if kind not in ("text", "input_text"):
        shown = repr(kind[:40]) if isinstance(kind, str) else json_kind(kind)
        if media is not None:
            known = ", ".join(("text", *MEDIA_TYPES))
            raise InvalidRequestError(f"{place}: Unknown content part type: {shown}. Known: {known}.", param=f"{place}.type")
        raise InvalidRequestError(f"{place}.type must be 'text', got {shown}.", param=f"{place}.type")
    check_known(part, ("type", "text"), place, without_effect=WITHOUT_EFFECT)
    text = part.get("text")
    if not isinstance(text, str):
        raise InvalidRequestError(f"{place}.text must be a string, got {json_kind(text)}.", param=f"{place}.text")
    return {"type": "text", "text": text}
