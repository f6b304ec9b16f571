"""What other programs write, as lines of our log: tritonserver's own form is read; knows no process."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable

from ..log_format import json_line

_TRITON = re.compile(r"^(?P<level>[IWEF])\d{4} [\d:.]+ \d+ (?P<place>[\w.+-]+:\d+)\] ?(?P<message>.*)$")
_LEVELS = {"I": "info", "W": "warning", "E": "error", "F": "critical"}


def line_writer(log_format: str, source: str) -> Callable[[str], str]:
    """What makes of a line of `source` a line of our log. As text they stay as they are."""
    return _as_json(source) if log_format == "json" else lambda line: line


def _as_json(source: str) -> Callable[[str], str]:
    def write(line: str) -> str:
        text = line.strip()
        if not text:
            return ""
        if _is_object(text):
            return text + "\n"
        match = _TRITON.match(text)
        if match is None:
            return json_line(source, "info", text, {}, created=time.time()) + "\n"
        message = match["message"].strip('"')
        return json_line(source, _LEVELS[match["level"]], message, {"place": match["place"]}, created=time.time()) + "\n"

    return write


def _is_object(text: str) -> bool:
    if not text.startswith("{"):
        return False
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False
