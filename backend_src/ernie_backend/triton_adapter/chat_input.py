"""What a `chat` input asks for: the fields beside the messages, their types and how they combine. Renders nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import InvalidRequestError, json_kind
from ..media_fields import AS_THE_MODEL_SAYS, MediaPart, ProcessorKwargs, read_processor_kwargs
from ..text.messages import Message, check_unread, normalize_messages
from ..text.tools import NO_CALLS, ToolChoice, normalize_tools, read_tool_choice
from .thinking import read_thinking

FIELDS = (
    "messages",
    "prompt_token_ids",
    "add_generation_prompt",
    "continue_final_message",
    "chat_template_kwargs",
    "enable_thinking",
    "reasoning_effort",
    "metadata",
    "disable_chat_template",
    "tools",
    "tool_choice",
    "mm_processor_kwargs",
    "parallel_tool_calls",
)
_REFUSED = {
    "chat_template": "chat_template cannot be given per request; the server's own applies (--chat-template).",
}


@dataclass(frozen=True)
class ChatInput:
    """Exactly one of `messages`, `raw_prompt` and `prompt_token_ids` is given."""

    messages: list[Message] | None = None
    raw_prompt: str | None = None
    """With `disable_chat_template`: the one message's content, to be read like `text_input`."""
    prompt_token_ids: list[Any] | None = None
    """Not checked yet: what the ids must be depends on the vocabulary."""
    variables: dict[str, Any] = field(default_factory=dict)
    """For the template."""
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    media: tuple[MediaPart, ...] = ()
    """The messages' images and videos, in order."""
    media_settings: ProcessorKwargs = AS_THE_MODEL_SAYS
    tools: list[dict[str, Any]] = field(default_factory=list)
    """What the template shows: none if the model must not call any."""
    tool_choice: ToolChoice = NO_CALLS
    parallel_tool_calls: bool = True
    thought_share: float | None = None
    """Of the answer's tokens, for the thought, where no number of tokens is given. None: the model's default."""

    @property
    def closes_thought(self) -> bool:
        """Whether the user wants no thought."""
        return self.variables.get("enable_thinking") is False


def read_chat(given: Mapping[str, Any], *, takes_tools: bool = False, takes_media: bool = False) -> ChatInput:
    """From the JSON object; a field that is `null` counts as not given. `takes_tools`: the template shows tools.

    Raises `InvalidRequestError` naming the field."""
    given = {name: value for name, value in given.items() if value is not None}
    for name in given:
        if name in _REFUSED:
            raise InvalidRequestError(_REFUSED[name], param=name)
        if name not in FIELDS:
            raise InvalidRequestError(f"Unknown field {name[:80]!r} in chat. Known fields: {', '.join(FIELDS)}.", param=name)
    tools = normalize_tools(given.get("tools", []))
    choice = read_tool_choice(given.get("tool_choice"), tools)
    if choice.mode != "none" and not takes_tools:
        raise InvalidRequestError("tools: this model takes no tools. Remove them, or set tool_choice to 'none'.", param="tools")
    ids = _prompt_token_ids(given)
    variables = dict(_object(given, "chat_template_kwargs"))
    if variables.get("enable_thinking", True) is None:  # nothing was said; templates would take it for false
        del variables["enable_thinking"]
    thinking = read_thinking(given, variables, _object(given, "metadata"))
    if thinking.enabled is not None:
        variables["enable_thinking"] = thinking.enabled
    of_the_answer: dict[str, Any] = {
        "tools": tools if choice.mode != "none" else [],
        "tool_choice": choice,
        "parallel_tool_calls": _boolean(given, "parallel_tool_calls", True),
        "thought_share": thinking.share,
    }
    settings = _media_settings(given, takes_media)
    is_raw = _boolean(given, "disable_chat_template", False)
    continued = _boolean(given, "continue_final_message", False)
    add_generation_prompt = _boolean(given, "add_generation_prompt", not continued)
    if ids is not None:
        return ChatInput(prompt_token_ids=ids, **of_the_answer)
    media: list[MediaPart] = []
    checked = normalize_messages(given.get("messages"), media if takes_media else None, takes_tools=takes_tools)
    if is_raw:
        if len(checked) != 1:
            raise InvalidRequestError("With disable_chat_template, give one message; its content is the prompt.", param="messages")
        return ChatInput(raw_prompt=_text_of(checked[0]), media=tuple(media), media_settings=settings, **of_the_answer)
    return ChatInput(
        media=tuple(media),
        media_settings=settings,
        messages=checked,
        variables=variables,
        add_generation_prompt=add_generation_prompt,
        continue_final_message=continued,
        **of_the_answer,
    )


def _prompt_token_ids(given: Mapping[str, Any]) -> list[Any] | None:
    """FastDeploy takes them in the messages' place as well. Messages beside them are not read, as there."""
    messages, ids = given.get("messages"), given.get("prompt_token_ids")
    if isinstance(messages, list) and messages and isinstance(messages[0], int):
        if ids is not None:
            raise InvalidRequestError("messages and prompt_token_ids both hold token ids. Give one of them.", param="messages")
        return messages
    if ids is None:
        return None
    if not isinstance(ids, list):
        raise InvalidRequestError(f"prompt_token_ids must be a list of token ids, got {json_kind(ids)}.", param="prompt_token_ids")
    check_unread(messages)
    return ids


def _media_settings(given: Mapping[str, Any], takes_media: bool) -> ProcessorKwargs:
    settings = given.get("mm_processor_kwargs", {})
    if not takes_media and settings != {}:
        raise InvalidRequestError("mm_processor_kwargs: this model takes no images and no videos.", param="mm_processor_kwargs")
    return read_processor_kwargs(settings, "mm_processor_kwargs")


def _text_of(message: Message) -> str:
    """Without its images and videos: a raw prompt says itself where they go."""
    content = message["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content if part["type"] == "text")


def _object(given: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = given.get(name, {})
    if not isinstance(value, Mapping):
        raise InvalidRequestError(f"{name} must be an object, got {json_kind(value)}.", param=name)
    return value


def _boolean(given: Mapping[str, Any], name: str, default: bool) -> bool:
    return _switch(given.get(name, default), name)


def _switch(value: Any, place: str) -> bool:
    if isinstance(value, str) and value.lower() in ("true", "false"):  # metadata's values are strings in OpenAI's form
        return value.lower() == "true"
    if not isinstance(value, bool):
        raise InvalidRequestError(f"{place} must be true or false, got {json_kind(value)}.", param=place)
    return value
