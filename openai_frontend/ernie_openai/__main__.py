"""`python -m ernie_openai`: the flags; knows what none of them does."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from .server import run
from .settings import DEFAULT_MAX_BODY_BYTES, FrontendSettings


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ernie_openai", description="OpenAI-compatible front end of an ernie-triton server.")
    parser.add_argument("--host", default="0.0.0.0")
    parser.add_argument("--port", type=int, default=8180)
    parser.add_argument("--triton-grpc", default="127.0.0.1:8001", metavar="HOST:PORT")
    parser.add_argument("--triton-metrics", default="http://127.0.0.1:8002/metrics", metavar="URL")
    parser.add_argument("--model-name", default="ernie", help="shown where no served name was given")
    parser.add_argument(
        "--served-model-name", nargs="+", action="extend", default=[], help="names that requests may give; without it any name passes"
    )
    parser.add_argument("--api-key", nargs="+", action="extend", default=[], help="keys that may use /v1; without it none is asked for")
    parser.add_argument("--max-model-len", type=_positive, help="tokens; only shown in /v1/models")
    parser.add_argument("--max-body-bytes", type=_positive, default=DEFAULT_MAX_BODY_BYTES, help="larger requests get status 413")
    parser.add_argument("--outage-file", metavar="FILE", help="while it exists, /health is 503 with its text; `serve` writes it")
    parser.add_argument("--workers", type=_positive, default=1, help="processes")
    parser.add_argument("--shutdown-grace-seconds", type=_positive, default=30, help="time for answers under way after SIGTERM")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    given = _parser().parse_args(arguments)
    settings = FrontendSettings(
        triton_grpc=given.triton_grpc,
        triton_metrics=given.triton_metrics,
        model_name=given.model_name,
        served_model_names=tuple(given.served_model_name),
        api_keys=tuple(given.api_key),
        max_model_len=given.max_model_len,
        max_body_bytes=given.max_body_bytes,
        outage_file=given.outage_file,
    )
    run(settings, host=given.host, port=given.port, workers=given.workers, grace_seconds=given.shutdown_grace_seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
