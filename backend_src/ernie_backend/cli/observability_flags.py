"""The flags of `serve` about logs and traces, and what each process is told of them; logs and traces nothing itself."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

from ..flag_parsing import MAX_LOG_CHARACTERS, whole
from ..log_format import LOG_FORMATS
from ..tracing import check_installed, traces_url


@dataclass(frozen=True)
class ObservabilityOptions:
    log_format: str = "text"
    access_log: bool = True
    max_log_len: int = 0
    """Characters of each prompt. 0: prompts are not logged."""
    otlp_traces_endpoint: str | None = None
    """With its path. None: nothing is traced."""

    @property
    def engine_values(self) -> dict[str, Any]:
        """Fields of `EngineConfig`."""
        return {"log_format": self.log_format, "otlp_traces_endpoint": self.otlp_traces_endpoint}

    @property
    def front_end_arguments(self) -> list[str]:
        """What `python -m ernie_openai` is started with."""
        arguments = ["--log-format", self.log_format, "--max-log-len", str(self.max_log_len)]
        arguments += [] if self.access_log else ["--no-access-log"]
        return arguments + ([] if self.otlp_traces_endpoint is None else ["--otlp-traces-endpoint", self.otlp_traces_endpoint])

    @property
    def triton_flags(self) -> dict[str, str]:
        """A gRPC client's own trace headers become request parameters. (Triton 2.51 does not do so for HTTP's generate.)"""
        return {} if self.otlp_traces_endpoint is None else {"grpc-header-forward-pattern": "traceparent|tracestate"}


def add_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--log-format", choices=LOG_FORMATS, default="text", help="json: every line of the log is an object (default: text)")
    group.add_argument("--no-access-log", "--disable-access-log", action="store_true", help="no line for each request")
    length = "characters of each prompt that the access log shows (default: 0, prompts are not logged)"
    group.add_argument("--max-log-len", type=whole(0, MAX_LOG_CHARACTERS), default=0, metavar="N", help=length)
    endpoint = "send OpenTelemetry spans there by OTLP over HTTP, such as http://127.0.0.1:4318 (default: nothing is traced)"
    group.add_argument("--otlp-traces-endpoint", metavar="URL", help=endpoint)


def read_arguments(args: argparse.Namespace) -> ObservabilityOptions:
    """Raises `ConfigError` for an endpoint that is none, or if the library for it is missing."""
    endpoint = args.otlp_traces_endpoint
    if endpoint is not None:
        endpoint = traces_url(endpoint)
        check_installed()
    return ObservabilityOptions(args.log_format, not args.no_access_log, args.max_log_len, endpoint)
