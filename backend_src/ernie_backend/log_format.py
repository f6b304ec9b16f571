"""How a log line looks, as text or as JSON, in every process of ours; a leaf: knows neither what is logged nor where it goes.

A line about one request carries that request's id: from the record (`extra={"request_id": …}`), else from `current_request`.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

LOG_FORMATS = ("text", "json")

current_request: ContextVar[str] = ContextVar("current_request", default="")
"""The id of the request that this thread or task works on. Empty: none."""


def install(log_format: str, source: str, *, text: str = "{time} {level} {source}: {message}") -> None:
    """Every line of this process goes to standard error in this format. `source` says which process it is."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(source) if log_format == "json" else TextFormatter(source, text))
    logging.root.handlers[:] = [handler]
    if log_format == "json":  # what Python itself would write, too
        logging.captureWarnings(True)
        sys.excepthook = _log_uncaught
        threading.excepthook = lambda of_thread: _log_uncaught(of_thread.exc_type, of_thread.exc_value, of_thread.exc_traceback)


def _log_uncaught(kind: type[BaseException], error: BaseException | None, traceback: TracebackType | None) -> None:
    logging.root.critical("An error that nobody caught.", exc_info=(kind, error or kind(), traceback))


def json_line(source: str, level: str, message: str, fields: dict[str, Any], *, created: float) -> str:
    """One object: what every line has first, then what this one has on top. `created`: Unix time, seconds."""
    time = datetime.fromtimestamp(created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    line = {"time": time, "level": level, "source": source, "message": message, **fields}
    return json.dumps(line, ensure_ascii=False, default=str, separators=(",", ":"))


class JsonFormatter(logging.Formatter):
    """`extra={"fields": {…}}` become fields of the object."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self._source = source

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {}
        request_id = getattr(record, "request_id", "") or current_request.get()
        if request_id:
            fields["request_id"] = request_id
        fields |= getattr(record, "fields", {})
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json_line(self._source, record.levelname.lower(), record.getMessage(), fields, created=record.created)


class TextFormatter(logging.Formatter):
    """One line of `template`, with the request's id and the fields behind it; an exception follows on lines of its own."""

    def __init__(self, source: str, template: str) -> None:
        super().__init__()
        self._source = source
        self._template = template

    def format(self, record: logging.LogRecord) -> str:
        line = self._template.format(
            time=datetime.fromtimestamp(record.created).isoformat(" ", timespec="milliseconds"),
            level=record.levelname,
            source=self._source,
            message=record.getMessage(),
        )
        request_id = getattr(record, "request_id", "") or current_request.get()
        fields = ({"request_id": request_id} if request_id else {}) | getattr(record, "fields", {})
        line += "".join(f" {name}={_shown(value)}" for name, value in fields.items())
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _shown(value: Any) -> str:
    """Without a line break or a control character: nobody writes lines of his own into the log."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if text.isprintable() and text and " " not in text else json.dumps(text)
