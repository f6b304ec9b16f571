"""How much a chat request wants its model to think: the switch, wherever it stands, and the effort. Knows no template and no tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import InvalidRequestError, json_kind

EFFORTS: dict[str, float] = {"none": 0, "minimal": 0.1, "low": 0.2, "medium": 0.5, "high": 0.8, "xhigh": 0.9, "max": 0.95}
"""OpenAI's names, and which share of an answer's tokens its thought may take. `high` is what FastDeploy gives where nothing is said."""
MODES = {"open": True, "auto": True, "adaptive": True, "close": False}
"""Of `options.thinking_mode`. No model here decides by itself whether to think: whatever leaves it the choice means on, as in FastDeploy,
which takes every word but `close` for that, slips of the pen included."""
ON, OFF = ("true", "yes", "y", "on", "t", "1"), ("false", "no", "n", "off", "f", "0")
"""What FastDeploy takes for a boolean, in any case, besides booleans and the numbers 1 and 0."""


@dataclass(frozen=True)
class Thinking:
    """What was asked for. None: nothing was said."""

    enabled: bool | None = None
    share: float | None = None
    """Of the answer's tokens, for the thought, where no number of tokens is given."""


def read_thinking(given: Mapping[str, Any], variables: Mapping[str, Any], metadata: Mapping[str, Any]) -> Thinking:
    """The top-level field before metadata before `variables` (chat_template_kwargs), for switch and effort each; `options.thinking_mode`
    before any switch, any switch before the effort, of which then only the share is left. Raises `InvalidRequestError` naming the place."""
    enabled: bool | None = None
    effort: str | None = None
    for source, where in (variables, "chat_template_kwargs."), (metadata, "metadata."), (given, ""):
        if source.get("enable_thinking") is not None:
            enabled = read_switch(source["enable_thinking"], f"{where}enable_thinking")
        if source.get("reasoning_effort") is not None:
            effort = _read_effort(source["reasoning_effort"], f"{where}reasoning_effort")
    mode = _thinking_mode(variables.get("options"))
    enabled = enabled if mode is None else mode
    if effort is None:
        return Thinking(enabled)
    return Thinking(effort != "none" if enabled is None else enabled, EFFORTS[effort] or None)


def _thinking_mode(options: Any) -> bool | None:
    place = "chat_template_kwargs.options"
    if options is None:
        return None
    if not isinstance(options, Mapping):
        raise InvalidRequestError(f"{place} must be an object, got {json_kind(options)}.", param=place)
    mode = options.get("thinking_mode")
    if mode is None or mode == "":
        return None
    if isinstance(mode, str) and mode.lower() in MODES:
        return MODES[mode.lower()]
    return read_switch(mode, f"{place}.thinking_mode", f"{', '.join(MODES)}, ")


def _read_effort(value: Any, place: str) -> str:
    if not isinstance(value, str) or value not in EFFORTS:
        raise InvalidRequestError(f"{place} must be one of {', '.join(EFFORTS)}, got {_shown(value)}.", param=place)
    return value


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
