"""The flags about logs and traces: read, checked, and handed to each process that they concern."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable

import pytest

from ernie_backend.cli.__main__ import main as serve_main
from ernie_backend.cli.flags import add_arguments, normalise, read_options
from ernie_backend.cli.ready_line import ready_line
from ernie_backend.config import EngineConfig
from ernie_backend.errors import ConfigError
from ernie_openai.__main__ import _parser
from ernie_openai.__main__ import main as front_end_main
from ernie_openai.observability import Observability, read_arguments


def read(line: str):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return read_options(parser.parse_args(normalise(["--model", "m", *line.split()])), on_gpu=False)


def test_what_each_process_is_told() -> None:
    options = read("--log_format json --max-log-len 80 --otlp-traces-endpoint http://127.0.0.1:4318 --no-access-log")
    assert (options.engine.log_format, options.engine.otlp_traces_endpoint) == ("json", "http://127.0.0.1:4318/v1/traces")
    told = read_arguments(_parser().parse_args(options.observability.front_end_arguments))
    assert told == Observability("json", access_log=False, max_log_len=80, otlp_traces_endpoint="http://127.0.0.1:4318/v1/traces")
    assert options.observability.triton_flags == {"grpc-header-forward-pattern": "traceparent|tracestate"}


def test_the_ready_line_is_an_object_where_the_log_is() -> None:
    line = "--host 0.0.0.0 --port 9000 --served-model-name e"
    text, said = ready_line(read(line)), json.loads(ready_line(read(f"{line} --log-format json")))
    assert text.startswith("Ready: e · OpenAI http://127.0.0.1:9000/v1 · Triton HTTP http://127.0.0.1:8000 · gRPC 127.0.0.1:8001 · ")
    assert list(said)[:4] == ["time", "level", "source", "message"] and said["message"] == "Ready"
    assert (said["model"], said["openai_url"], said["triton_grpc"]) == ("e", "http://127.0.0.1:9000/v1", "127.0.0.1:8001")
    assert said["metrics_url"] in text and said["triton_url"] in text


SAY_READY = """
import argparse, sys
from ernie_backend.cli.flags import add_arguments, read_options
from ernie_backend.cli.ready_line import say_ready
add_arguments(parser := argparse.ArgumentParser())
say_ready(read_options(parser.parse_args(["--model", "m"]), on_gpu=False))
"""


@pytest.mark.parametrize("output", ["> /dev/full", ">&-", "| true", ""])
def test_a_server_is_ready_whether_it_can_be_said_or_not(output: str) -> None:
    script = f'"$1" -c "$2" {output}; exit "${{PIPESTATUS[0]}}"'
    ended = subprocess.run(["bash", "-c", script, "", sys.executable, SAY_READY], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("Ready: m") is (output == "")


@pytest.mark.parametrize("form", ["--log-format json", "--log_format=json"])
@pytest.mark.parametrize(
    ("wrong", "said"), [("--max-model-len 4.5", "whole number"), ("--max-modellen 4", "unknown flag"), ("", "/nowhere")]
)
def test_mistakes_are_objects_where_the_log_is(form: str, wrong: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Those that argparse finds, and ours."""
    for arguments in (f"{form} {wrong}", f"{wrong} {form}"):
        assert ended(serve_main, ["serve", "--model", "/nowhere", *arguments.split()]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        told = json.loads(line)
        assert (told["level"], told["source"]) == ("error", "serve") and said in told["message"]
    assert ended(serve_main, ["serve", "--model", "/nowhere", *wrong.split()]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("ernie-triton serve: error: ")


def test_mistakes_of_the_front_end_are_objects_where_its_log_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FD_API_KEY", ",")
    for wrong, said in (
        ("--port x", "must be a port"),
        ("--max-body-bytes 1.5", "whole number"),
        ("", "FD_API_KEY is set and holds no key"),
    ):
        assert ended(front_end_main, ["--log-format", "json", *wrong.split()]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert said in json.loads(line)["message"]
    assert ended(front_end_main, ["--served-model-name", "e", ""]) == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("argument --served-model-name: must not be empty")


def ended(program: Callable[[list[str]], int], arguments: list[str]) -> int:
    """Its status."""
    try:
        return program(arguments)
    except SystemExit as exit_of_argparse:
        assert isinstance(exit_of_argparse.code, int)
        return exit_of_argparse.code


def test_nothing_is_traced_and_no_prompt_logged_unless_asked() -> None:
    options = read("")
    assert options.engine.otlp_traces_endpoint is None and not options.observability.triton_flags
    assert read_arguments(_parser().parse_args(options.observability.front_end_arguments)) == Observability()
    assert Observability().max_log_len == 0


@pytest.mark.parametrize("url", ["localhost:4318", "grpc://host:4317", "http://", "file:///tmp/x"])
def test_an_endpoint_that_is_none(url: str) -> None:
    with pytest.raises(ConfigError, match="must be an http:// or https:// URL") as caught:
        read(f"--otlp-traces-endpoint {url}")
    assert caught.value.param == "otlp_traces_endpoint"
    with pytest.raises(ConfigError, match="http:// or https://"):
        EngineConfig(model="m", otlp_traces_endpoint=url)


def test_an_endpoint_with_a_path_keeps_it() -> None:
    assert read("--otlp-traces-endpoint https://host/otel").engine.otlp_traces_endpoint == "https://host/otel"


def test_traces_without_their_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(ConfigError, match=r"pip install 'ernie-triton\[tracing\]'"):
        read("--otlp-traces-endpoint http://host:4318")


@pytest.mark.parametrize("line", ["--log-format xml", "--max-log-len -1", "--max-log-len some"])
def test_wrong_values(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read(line)
    assert line.split()[0] in capsys.readouterr().err


def test_a_wrong_log_format_in_the_engines_file() -> None:
    with pytest.raises(ConfigError, match="log_format must be one of text, json"):
        EngineConfig(model="m", log_format="xml")
