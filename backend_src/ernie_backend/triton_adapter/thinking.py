"""How much a chat request wants its model to think: the switch, wherever it stands, and the effort. Knows no template and no tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import InvalidRequestError, json_kind

EFFORTS: dict[str, float] = {"none": 0, "minimal": 0.1, "low": 0.2, "medium": 0.5, "high": 0.8}
"""OpenAI's names, and which share of an answer's tokens its thought may take. `high` is what FastDeploy gives where nothing is said."""
ON, OFF = ("true", "yes", "y", "on", "t", "1"), ("false", "no", "n", "off", "f", "0")
"""What FastDeploy takes for a boolean, in any case, besides booleans and the numbers 1 and 0."""


@dataclass(frozen=True)
class Thinking:
    """What was asked for. None: nothing was said."""

    enabled: bool | None = None
    share: float | None = None
    """Of the answer's tokens, for the thought, where no number of tokens is given."""


def read_thinking(given: Mapping[str, Any], variables: Mapping[str, Any], metadata: Mapping[str, Any]) -> Thinking:
    """`options.thinking_mode` before the top-level field before metadata before `variables` (chat_template_kwargs); any of them before the
    effort, of which then only the share is left. Raises `InvalidRequestError` naming the place."""
    enabled: bool | None = None
    places = (variables, "chat_template_kwargs.enable_thinking"), (metadata, "metadata.enable_thinking"), (given, "enable_thinking")
    for source, place in places:
        if source.get("enable_thinking") is not None:
            enabled = read_switch(source["enable_thinking"], place)
    options = variables.get("options")
    mode = options.get("thinking_mode") if isinstance(options, Mapping) else None
    if mode not in (None, ""):
        enabled = read_switch(
            {"open": True, "close": False}.get(str(mode), mode), "chat_template_kwargs.options.thinking_mode", "open, close, "
        )
    effort = given.get("reasoning_effort")
    if effort is None:
        return Thinking(enabled)
    if not isinstance(effort, str) or effort not in EFFORTS:
        raise InvalidRequestError(f"reasoning_effort must be one of {', '.join(EFFORTS)}, got {_shown(effort)}.", param="reasoning_effort")
    return Thinking(effort != "none" if enabled is None else enabled, EFFORTS[effort] or None)


def read_switch(value: Any, place: str, others: str = "") -> bool:
    """True or false, as they are written in JSON and in words. `others`: what else would do, for the error."""
    if isinstance(value, (bool, int, float)) and value in (0, 1):
        return bool(value)
    word = value.lower() if isinstance(value, str) else ""
    if word not in ON + OFF:
        raise InvalidRequestError(f"{place} must be {others}true or false, got {_shown(value)}.", param=place)
    return word in ON


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)[:80] if isinstance(value, (str, int, float)) else json_kind(value)
