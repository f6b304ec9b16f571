"""The flags of `serve` that say how much work it takes on and how long anything may wait; FastDeploy's names where it has them."""

from __future__ import annotations

import argparse
from typing import Any

from ..flag_parsing import integer, seconds_or_off

LOAD_FIELDS = {
    "max_concurrency": "--max-concurrency",
    "max_queued_requests": "--max-queued-requests",
    "max_queued_tokens": "--max-queued-tokens",
    "max_waiting_seconds": "--max-waiting-time",
}
"""`EngineConfig` field → flag."""


def add_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--max-concurrency",
        type=integer,
        metavar="N",
        help="answers at once (n per request), waiting ones too; more get 429 (default: 4096)",
    )
    group.add_argument("--max-queued-requests", type=integer, metavar="N", help="requests that may wait to be started; more get 429")
    group.add_argument(
        "--max-queued-tokens", type=integer, metavar="N", help="tokens of the prompts that may wait to be started; more get 429"
    )
    group.add_argument(
        "--max-waiting-time",
        dest="max_waiting_seconds",
        type=seconds_or_off,
        metavar="SECONDS",
        help="a request that waited so long to be started gets 408; -1: no limit (default: -1)",
    )


def read_fields(args: argparse.Namespace) -> dict[str, Any]:
    """What was given, as fields of `EngineConfig`, which checks it."""
    given = {field: getattr(args, field) for field in LOAD_FIELDS}
    return {field: value for field, value in given.items() if value is not None}
