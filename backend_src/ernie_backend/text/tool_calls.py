"""Reads tool calls, `{"name": …, "arguments": {…}}`, as they are written; knows no tokens and nothing of what stands around a call.

A call is told when its object is complete and not before: one that breaks off or does not parse is shown as text, and could not be if half
of it had been told already.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any, NoReturn


@dataclass(frozen=True)
class ToolCall:
    name: str
    arguments: str
    """A JSON object, written anew."""

    def deltas(self, index: int) -> tuple[dict[str, Any], ...]:
        """OpenAI's streaming form: who is called, then with what."""
        head = {"index": index, "id": f"chatcmpl-tool-{uuid.uuid4().hex}", "type": "function"}
        return (
            {**head, "function": {"name": self.name, "arguments": ""}},
            {"index": index, "function": {"arguments": self.arguments}},
        )


def whole_calls(deltas: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Streaming deltas put together: one object for each call, {index, id, type, function {name, arguments}}."""
    calls: dict[int, dict[str, Any]] = {}
    for delta in deltas:
        call = calls.setdefault(delta["index"], {**delta, "function": {"name": "", "arguments": ""}})
        for part, text in delta["function"].items():
            call["function"][part] += text
    return list(calls.values())


class CallState(Enum):
    OPEN = "open"
    COMPLETE = "complete"
    """The object is closed."""
    BROKEN = "broken"
    """It does not begin as an object."""


class CallScanner:
    """For one call: finds the end of its object, in which only JSON's structure counts."""

    def __init__(self) -> None:
        self.state = CallState.OPEN
        self._parts: list[str] = []
        self._depth = 0
        self._in_string = False
        self._escaped = False

    @property
    def text(self) -> str:
        """What was read so far."""
        return "".join(self._parts)

    @property
    def in_string(self) -> bool:
        """Whether whatever comes next, be it a marker, is part of a string."""
        return self._in_string

    def push(self, text: str) -> str:
        """Reads on; returns what lies behind the call's end."""
        for position, character in enumerate(text):
            self._read(character)
            if self.state is not CallState.OPEN:
                self._parts.append(text[: position + 1])
                return text[position + 1 :]
        self._parts.append(text)
        return ""

    def _read(self, character: str) -> None:
        if self._in_string:
            if self._escaped:
                self._escaped = False
            elif character == "\\":
                self._escaped = True
            elif character == '"':
                self._in_string = False
        elif character in "{[":
            self._depth += 1
            if self._depth == 1 and character == "[":
                self.state = CallState.BROKEN
        elif self._depth == 0:
            if not character.isspace():
                self.state = CallState.BROKEN
        elif character == '"':
            self._in_string = True
        elif character in "}]":
            self._depth -= 1
            if self._depth == 0:
                self.state = CallState.COMPLETE


def parse_call(text: str) -> ToolCall | None:
    """The call that a complete object describes; None if it is no JSON, names nothing, or has arguments that are no object or go by another
    name: a call without them would not be the one that was meant."""
    try:
        given = json.loads(text, parse_constant=_refuse_constant)
        name, arguments = given.get("name"), given.get("arguments", {} if len(given) == 1 else None)
        if isinstance(arguments, str):
            arguments = json.loads(arguments, parse_constant=_refuse_constant)
        if not isinstance(name, str) or not name or not isinstance(arguments, dict):
            return None
        call = ToolCall(name, json.dumps(arguments, ensure_ascii=False, allow_nan=False))
        f"{call.name}{call.arguments}".encode()  # half of an escaped surrogate pair cannot be sent
        return call
    except (ValueError, RecursionError):
        return None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
