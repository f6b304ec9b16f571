"""A checkpoint's chat template: finds it, renders a conversation with it, and keeps what users typed from becoming control tokens.

Knows no request and counts no token. Rendering itself happens in a helper process with hard limits (`template_process.py`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, ConfigError, InvalidRequestError
from .messages import Message
from .template_process import TemplateProcess
from .tokenizer import SHIELD, Tokenizer

CPU_SECONDS = 2.0
"""A conversation of 10,000 messages takes 0.03 s."""
OWN_MARKERS = frozenset(("<think>", "</think>", "<response>", "</response>"))
"""What a model itself writes in an answer, and what templates look for in the history's answers: kept there, shielded elsewhere."""
RESERVED_VARIABLES = frozenset(
    ("messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "chat_template", "tokenize", "raise_exception")
)
_END = "\udc00"
"""Put behind the last message that is to be continued, to find its end again; as impossible in a text as `SHIELD`."""

BUILT_IN = """\
{%- set begin = cls_token if cls_token is defined else '<|begin_of_sentence|>' -%}
{%- set end = sep_token if sep_token is defined else '<|end_of_sentence|>' -%}
{{- begin -}}
{%- for message in messages -%}
    {%- if message.role == 'system' -%}
        {{- message.content + '\\n' -}}
    {%- elif message.role == 'user' -%}
        {{- 'User: ' + message.content + '\\n' -}}
    {%- else -%}
        {{- 'Assistant: ' + message.content + end -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- 'Assistant: ' -}}
{%- endif -%}
"""
"""The prompt format of ERNIE-4.5 0.3B, 21B-A3B and 300B-A47B, for checkpoints that ship no template."""


class ChatTemplate:
    """One template, ready to render. Not for several threads at once; `close` ends its helper process."""

    def __init__(self, source: str, tokenizer: Tokenizer, *, cpu_seconds: float = CPU_SECONDS, wants_parts: bool = False) -> None:
        """`ConfigError` if the template does not compile. `wants_parts`: it takes content as a list of parts only, never as a string."""
        self.source = source
        self._tokenizer = tokenizer
        self._wants_parts = wants_parts
        self._process = TemplateProcess(source, cpu_seconds)

    @property
    def takes_tools(self) -> bool:
        """Whether the template shows tools."""
        return "tools" in self._process.variables

    @classmethod
    def from_folder(
        cls,
        folder: str | Path,
        tokenizer: Tokenizer,
        override: str | None = None,
        *,
        built_in: str = BUILT_IN,
        wants_parts: bool = False,
    ) -> ChatTemplate:
        """The template that applies: `override` (a file or the template itself), else the model folder's own, else `built_in`."""
        source = _override(override) if override else find_template(Path(folder))
        if source is None:
            source = built_in
            missing = [name for name in ("<|begin_of_sentence|>", "<|end_of_sentence|>") if tokenizer.token_id(name) is None]
            if missing:
                raise CheckpointError(
                    f"The model folder ships no chat template, and the built-in one needs {' and '.join(missing)}, which its tokenizer "
                    "does not have. Give a template with --chat-template.",
                    param="chat_template",
                )
        return cls(source, tokenizer, wants_parts=wants_parts)

    def render(
        self,
        messages: list[Message],
        *,
        tools: list[dict[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
    ) -> str:
        """The conversation as one text for `Tokenizer.encode_template`.

        `messages` come from `normalize_messages`, `tools` from `normalize_tools`. `variables`: the user's `chat_template_kwargs`.
        `continue_final_message`: the text ends with the last message's content, for the model to go on with. `InvalidRequestError` if the
        template refuses or runs into a limit.
        """
        reserved = sorted((RESERVED_VARIABLES | self._tokenizer.roles.keys()) & set(variables or ()))
        if reserved:
            raise InvalidRequestError(
                f"chat_template_kwargs must not hold {reserved[0]!r}, which is not the user's to set.", param="chat_template_kwargs"
            )
        shielded = [self._shield_message(message) for message in messages]
        if continue_final_message:
            _check_continued(messages, add_generation_prompt)
            _append(shielded[-1], _END)
        rendered = self._process.render(
            {
                **self._tokenizer.roles,
                **_shield_all(self._tokenizer, dict(variables or {})),
                "messages": shielded,
                **({"tools": _shield_all(self._tokenizer, tools)} if tools else {}),
                "add_generation_prompt": add_generation_prompt,
            }
        )
        if continue_final_message:
            rendered, end, _ = rendered.partition(_END)
            if not end:
                raise InvalidRequestError(
                    "continue_final_message: the chat template does not show the last message's content.", param="continue_final_message"
                )
        return rendered

    def close(self) -> None:
        self._process.close()

    def _shield_message(self, message: Message) -> Message:
        """A copy with a sign in every marker that a user typed, and its content in the form that the template takes."""
        keep = OWN_MARKERS if message["role"] == "assistant" else frozenset()
        shielded = {
            key: self._tokenizer.shield(value, keep) if isinstance(value, str) else _shield_all(self._tokenizer, value)
            for key, value in message.items()
        }
        if self._wants_parts and isinstance(shielded["content"], str):
            shielded["content"] = [{"type": "text", "text": shielded["content"]}]
        if "reasoning_content" in shielded:
            shielded["thoughts"] = shielded["reasoning_content"]  # as FastDeploy's documents, and so maybe a template, call it
        return shielded


def as_typed(rendered: str) -> str:
    """A rendered conversation as a person would read it: without the signs of `Tokenizer.shield`."""
    return rendered.replace(SHIELD, "")


def find_template(folder: Path) -> str | None:
    """The model folder's own template: chat_template.jinja, chat_template.json or tokenizer_config.json; None if it ships none."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"Cannot read {str(path)!r}: {error}.", param="chat_template") from None
    for name in ("chat_template.json", "tokenizer_config.json"):
        path = folder / name
        if not path.is_file():
            continue
        try:
            given = json.loads(path.read_text(encoding="utf-8")).get("chat_template")
        except (ValueError, AttributeError, RecursionError):
            raise CheckpointError(f"{str(path)!r} must hold a JSON object.", param="model") from None
        if given is not None:
            return _choose(given, path)
    return None


def _choose(given: Any, path: Path) -> str:
    """The template, or of several named ones the one named `default`."""
    if isinstance(given, list):
        named = {entry.get("name"): entry.get("template") for entry in given if isinstance(entry, dict)}
        given = named.get("default", next(iter(named.values())) if len(named) == 1 else None)
    if not isinstance(given, str):
        raise CheckpointError(f"{str(path)!r}: chat_template must be a string, or a list with one named 'default'.", param="model")
    return given


def _override(given: str) -> str:
    if "{" in given or "\n" in given:
        return given
    try:
        return Path(given).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"chat_template {given!r} is neither a readable file nor a jinja template: {error}.", param="chat_template"
        ) from None


def _append(message: Message, text: str) -> None:
    """At the end of its content."""
    content = message["content"]
    message["content"] = content + text if isinstance(content, str) else [*content, {"type": "text", "text": text}]


def _check_continued(messages: list[Message], add_generation_prompt: bool) -> None:
    if add_generation_prompt:
        raise InvalidRequestError("Give only one of add_generation_prompt and continue_final_message.", param="continue_final_message")
    if messages[-1]["role"] != "assistant":
        raise InvalidRequestError("continue_final_message needs an assistant message as the last one.", param="continue_final_message")


def _shield_all(tokenizer: Tokenizer, value: Any) -> Any:
    if isinstance(value, str):
        return tokenizer.shield(value)
    if isinstance(value, list):
        return [_shield_all(tokenizer, item) for item in value]
    if isinstance(value, dict):
        return {tokenizer.shield(key): _shield_all(tokenizer, item) for key, item in value.items()}
    return value
