"""The flags about logs and traces: read, checked, and handed to each process that they concern."""

from __future__ import annotations

import argparse
import sys

import pytest

from ernie_backend.cli.flags import add_arguments, normalise, read_options
from ernie_backend.config import EngineConfig
from ernie_backend.errors import ConfigError
from ernie_openai.__main__ import _parser
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
