"""Where a JSON text is nested too deeply for its reader; a leaf: knows no field."""

from __future__ import annotations

import re

_DEEP = 500
"""Python's reader gives up at about twice as much."""
_SHOWN = 4
_TOKEN = re.compile(r'"([^"\\]*(?:\\.[^"\\]*)*)"|[{}\[\],]')


def place_that_is_too_deep(text: str) -> str | None:
    """The way to the first value that is nested too deeply, `tools[0].function.parameters`, as far as a person wants to read it.

    None if there is none. Never recurses, and reads the text once.
    """
    way: list[str | int] = []  # of every open value, where its reader is: a key or a position
    expects_key = False
    for match in _TOKEN.finditer(text):
        token = match.group()
        if token[0] == '"':
            if expects_key:
                way[-1] = match.group(1)
                expects_key = False
        elif token in "{[":
            way.append("" if token == "{" else 0)
            expects_key = token == "{"
            if len(way) > _DEEP:
                return _spelled(way)
        elif token == ",":
            if way and isinstance(way[-1], int):
                way[-1] += 1
            else:
                expects_key = True
        elif way:
            way.pop()
            expects_key = False
    return None


def _spelled(way: list[str | int]) -> str:
    shown = "".join(f"[{step}]" if isinstance(step, int) else f".{step[:40]}" for step in way[:_SHOWN])
    return shown.lstrip(".")
