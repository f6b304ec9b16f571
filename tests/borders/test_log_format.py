"""Log lines in both forms: the request's id in each line about one, and no way to write lines of one's own into the log."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from ernie_backend.cli.log_lines import line_writer
from ernie_backend.log_format import JsonFormatter, TextFormatter, current_request


@pytest.fixture(autouse=True)
def no_task() -> Iterator[None]:
    """Other tests of this process may have left theirs."""
    token = current_request.set("")
    yield
    current_request.reset(token)


TEMPLATE = "{level} {source}: {message}"


def record(message: str = "said", **extra: Any) -> logging.LogRecord:
    made = logging.LogRecord("x", logging.WARNING, __file__, 1, message, None, None)
    for name, value in extra.items():
        setattr(made, name, value)
    return made


def test_json_has_the_id_of_the_record_before_that_of_the_task() -> None:
    formatter = JsonFormatter("engine")
    assert "request_id" not in json.loads(formatter.format(record()))
    token = current_request.set("of-the-task")
    try:
        assert json.loads(formatter.format(record()))["request_id"] == "of-the-task"
        line = json.loads(formatter.format(record(request_id="of-the-record", fields={"status": 200})))
    finally:
        current_request.reset(token)
    assert list(line) == ["time", "level", "source", "message", "request_id", "status"]
    assert (line["level"], line["source"], line["request_id"]) == ("warning", "engine", "of-the-record")


def test_an_exception_is_one_line_of_json_and_several_of_text() -> None:
    try:
        raise ValueError("why")
    except ValueError:
        failed = record()
        failed.exc_info = sys.exc_info()
    assert "ValueError: why" in json.loads(JsonFormatter("engine").format(failed))["exception"]
    assert "\n" not in JsonFormatter("engine").format(failed)
    assert TextFormatter("engine", TEMPLATE).format(failed).startswith("WARNING engine: said\nTraceback")


def test_what_python_itself_would_write_is_json_too() -> None:
    program = """if True:
        import threading, warnings
        from ernie_backend import log_format
        log_format.install("json", "serve")
        warnings.warn("careful")
        thread = threading.Thread(target=lambda: 1 / 0)
        thread.start()
        thread.join()
        raise ValueError("why")
    """
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    warned, of_the_thread, last = map(json.loads, ended.stderr.splitlines())
    assert ended.returncode == 1 and "careful" in warned["message"]
    assert "ZeroDivisionError" in of_the_thread["exception"] and "ValueError: why" in last["exception"]
    assert {line["source"] for line in (warned, of_the_thread, last)} == {"serve"}


@pytest.mark.parametrize("hostile", ["a\nERROR engine: forged", "a b", "", "\x1b[31m", '"'])
def test_fields_cannot_forge_a_line(hostile: str) -> None:
    line = TextFormatter("frontend", TEMPLATE).format(record(fields={"prompt": hostile, "status": 200}))
    assert "\n" not in line and "\x1b" not in line and line.endswith(" status=200")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('E1125 22:30:23.910859 11088 server.cc:241] "Went wrong."\n', ("error", "Went wrong.", "server.cc:241")),
        ("terminate called\n", ("info", "terminate called", None)),
        ("{not json\n", ("info", "{not json", None)),
    ],
)
def test_tritonservers_lines_become_objects(line: str, expected: tuple[str, str, str | None]) -> None:
    found = json.loads(line_writer("json", "tritonserver")(line))
    assert (found["level"], found["message"], found.get("place")) == expected and found["source"] == "tritonserver"


def test_what_is_an_object_stays_and_text_stays() -> None:
    own = '{"time":"…","source":"engine"}\n'
    assert line_writer("json", "tritonserver")(own) == own
    assert line_writer("json", "tritonserver")(" \n") == ""
    assert line_writer("text", "tritonserver")("E1125 x\n") == "E1125 x\n"
