"""`python -m ernie_openai`: the flags; knows what none of them does."""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Sequence

from ernie_backend.api_keys import ENVIRONMENT_VARIABLE, distinct, keys_of_environment
from ernie_backend.errors import ConfigError
from ernie_backend.flag_parsing import MAX_PENDING_BYTES, FlagParser, mistake, not_empty, port_or_any, positive, whole, worker_count

from .access import KeyRing
from .observability import add_arguments, read_arguments
from .server import run
from .settings import DEFAULT_MAX_BODY_BYTES, DEFAULT_MAX_PENDING_BYTES, FrontendSettings, TlsFiles


def _parser() -> FlagParser:
    parser = FlagParser(prog="ernie_openai", description="OpenAI-compatible front end of an ernie-triton server.")
    parser.add_argument("--host", default="0.0.0.0")
    parser.add_argument("--port", type=port_or_any, default=8180)
    inherited = "a bound socket in place of host and port; whoever starts this keeps it open, too, and connections wait in a restart"
    parser.add_argument("--listening-socket", type=whole(0), metavar="N", help=inherited)
    parser.add_argument("--triton-grpc", default="127.0.0.1:8001", metavar="HOST:PORT")
    parser.add_argument("--triton-metrics", default="http://127.0.0.1:8002/metrics", metavar="URL")
    parser.add_argument("--model-name", default="ernie", help="shown where no served name was given")
    names = "names that requests may give; without it any name passes"
    parser.add_argument("--served-model-name", type=not_empty, nargs="+", action="extend", default=[], help=names)
    parser.add_argument(
        "--api-key", nargs="+", action="extend", default=[], help=f"keys that are let in, as well as those of {ENVIRONMENT_VARIABLE}"
    )
    parser.add_argument("--api-key-file", metavar="FILE", help="one key a line, behind it its scopes; read again when it changes")
    parser.add_argument("--allowed-origins", nargs="+", default=[], metavar="ORIGIN", help="of web pages that may ask (default: none)")
    parser.add_argument("--ssl-certfile", metavar="FILE")
    parser.add_argument("--ssl-keyfile", metavar="FILE")
    parser.add_argument("--ssl-ca-certs", metavar="FILE", help="clients must show a certificate of one of these authorities")
    parser.add_argument("--max-model-len", type=positive, help="tokens; only shown in /v1/models")
    parser.add_argument("--max-body-bytes", type=positive, default=DEFAULT_MAX_BODY_BYTES, help="larger requests get status 413")
    parser.add_argument("--outage-file", metavar="FILE", help="while it exists, /health is 503 with its text; `serve` writes it")
    pending = "of a streamed answer that its client has not read yet; more end it"
    parser.add_argument("--max-pending-bytes", type=whole(1, MAX_PENDING_BYTES), default=DEFAULT_MAX_PENDING_BYTES, help=pending)
    parser.add_argument(
        "--max-concurrency", type=positive, help="answers that the engine gives at once; a request for more gets status 400"
    )
    parser.add_argument("--workers", type=worker_count, default=1, help="processes")
    parser.add_argument("--shutdown-grace-seconds", type=positive, default=30, help="time for answers under way after SIGTERM")
    add_arguments(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    given = _parser().parse_args(arguments)
    tls = TlsFiles(given.ssl_certfile, given.ssl_keyfile, given.ssl_ca_certs) if given.ssl_certfile else None
    try:
        settings = _settings(given)
        KeyRing(settings.api_keys, settings.api_key_file)  # each worker makes its own; here mistakes can still be told
        listening = None if given.listening_socket is None else _inherited(given.listening_socket)
    except ConfigError as error:
        print(mistake("ernie_openai", error.message, given.log_format), file=sys.stderr)
        return 2
    run(
        settings,
        host=given.host,
        port=given.port,
        workers=given.workers,
        grace_seconds=given.shutdown_grace_seconds,
        tls=tls,
        listening=listening,
    )
    return 0


def _inherited(number: int) -> socket.socket:
    try:
        return socket.socket(fileno=number)
    except OSError as error:
        raise ConfigError(f"--listening-socket {number} is no socket of this process: {error.strerror}.") from None


def _settings(given: argparse.Namespace) -> FrontendSettings:
    return FrontendSettings(
        triton_grpc=given.triton_grpc,
        triton_metrics=given.triton_metrics,
        model_name=given.model_name,
        served_model_names=tuple(given.served_model_name),
        api_keys=distinct((*given.api_key, *keys_of_environment(os.environ))),
        api_key_file=given.api_key_file,
        allowed_origins=tuple(given.allowed_origins),
        max_model_len=given.max_model_len,
        max_body_bytes=given.max_body_bytes,
        outage_file=given.outage_file,
        max_pending_bytes=given.max_pending_bytes,
        observability=read_arguments(given),
        max_concurrency=given.max_concurrency,
    )


if __name__ == "__main__":
    sys.exit(main())
