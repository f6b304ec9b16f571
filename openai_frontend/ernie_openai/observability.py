"""What the front end may be told about logs and traces, and its flags; logs and traces nothing itself."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from ernie_backend.flag_parsing import MAX_LOG_CHARACTERS, whole
from ernie_backend.log_format import LOG_FORMATS


@dataclass(frozen=True)
class Observability:
    """Plain values, so that worker processes get a copy."""

    log_format: str = "text"
    """`text` or `json`."""
    access_log: bool = True
    """One line for each request but those of health and metrics."""
    max_log_len: int = 0
    """So many characters of each prompt go into the access log. 0: none."""
    otlp_traces_endpoint: str | None = None
    """None: nothing is traced."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--log-format", choices=LOG_FORMATS, default="text", help="json: one object a line")
    parser.add_argument("--no-access-log", action="store_true", help="no line for each request")
    length = "characters of each prompt in the access log; 0: none"
    parser.add_argument("--max-log-len", type=whole(0, MAX_LOG_CHARACTERS), default=0, help=length)
    parser.add_argument("--otlp-traces-endpoint", metavar="URL", help="send spans there by OTLP over HTTP")


def read_arguments(given: argparse.Namespace) -> Observability:
    return Observability(
        log_format=given.log_format,
        access_log=not given.no_access_log,
        max_log_len=given.max_log_len,
        otlp_traces_endpoint=given.otlp_traces_endpoint,
    )
