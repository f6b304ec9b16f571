"""`ernie-triton bench server`: streaming clients against a running server, and a table of what they saw; starts no server."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import socket
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..errors import ConfigError, EngineError
from ..flag_parsing import integer
from .flags import numbers

_MOST_PROCESSES = 8
_CONNECT_SECONDS = 10.0
_PACKAGES = {"grpc": ("grpc", "tritonclient"), "http": ("aiohttp",)}


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """The subcommand's flags; `args.run` is set to `run`."""
    parser = subparsers.add_parser(
        "server",
        help="tokens per second that a running server delivers to streaming clients",
        description="Every stream asks again once its answer is complete. Prompts are random ids, answers sampled and of full length.",
        allow_abbrev=False,
    )
    parser.add_argument("--url", required=True, metavar="HOST:PORT", help="Triton's gRPC port, or the OpenAI front end's")
    parser.add_argument("--protocol", choices=("grpc", "http"), default="grpc", help="default: %(default)s")
    parser.add_argument("--streams", default="1,64,256", metavar="N,N,…", help="answers at once (default: %(default)s)")
    parser.add_argument("--requests", type=integer, default=3, metavar="N", help="of each stream, one after another (default: %(default)s)")
    parser.add_argument("--prompt", type=integer, default=512, metavar="N", help="tokens (default: %(default)s)")
    parser.add_argument("--tokens", type=integer, default=256, metavar="N", help="of every answer (default: %(default)s)")
    processes = min(_MOST_PROCESSES, max(1, (os.cpu_count() or 2) // 2))
    parser.add_argument("--processes", type=integer, default=processes, metavar="N", help="clients (default: half the cores, at most 8)")
    parser.add_argument("--out", metavar="FILE", help="write the numbers as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the table; 1 if a request failed. `ConfigError`: wrong flags, missing packages; `EngineError`: nobody listens."""
    streams = numbers(args.streams, "--streams")
    _check(args)
    _connect(args.url, args.protocol)
    from ..benchmark.load_client import Job
    from ..benchmark.server_bench import load

    job = Job(args.protocol, args.url, 0, args.requests, args.prompt, args.tokens, seed=0)
    report: dict[str, Any] = {"protocol": args.protocol, "prompt": args.prompt, "tokens": args.tokens, "requests": args.requests}
    report |= {"date": time.strftime("%Y-%m-%d %H:%M:%S"), "rows": []}
    print(f"{args.protocol} {args.url}: prompt {args.prompt}, {args.tokens} tokens, {args.requests} requests for each stream")
    head = f"{'streams':>8} {'tok/s':>9} {'decoding':>9} {'responses/s':>12} {'TTFT ms p50':>12} {'p99':>9}"
    print(f"{head} {'token ms p50':>13} {'p99':>8} {'failed':>7}", flush=True)
    for number, count in enumerate(streams):
        job = Job(**{**asdict(job), "streams": count, "seed": 1000 * number})
        with tqdm(total=count * args.requests, unit="answer", desc=f"{count} streams", leave=False, disable=None) as bar:
            row = load(job, args.processes, bar.update)
        report["rows"].append(asdict(row))
        decoding = "–" if row.decode_tokens_per_second is None else f"{row.decode_tokens_per_second:.0f}"
        left = f"{row.streams:8} {row.tokens_per_second:9.0f} {decoding:>9} {row.responses_per_second:12.0f}"
        times = f"{row.first_token_ms[0]:12.1f} {row.first_token_ms[1]:9.1f} {row.inter_token_ms[0]:13.2f} {row.inter_token_ms[1]:8.2f}"
        print(f"{left} {times} {row.failed:7}", flush=True)
        if row.error:
            print(f"the first failure: {row.error}", flush=True)
        if args.out:
            Path(args.out).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 1 if any(row["failed"] for row in report["rows"]) else 0


def _check(args: argparse.Namespace) -> None:
    if not re.fullmatch(r"[^/\s]+:\d+", args.url):
        raise ConfigError(f"--url must be HOST:PORT, got {args.url!r}.", param="url")
    for name in ("requests", "prompt", "tokens", "processes"):
        if getattr(args, name) < 1:
            raise ConfigError(f"--{name} must be at least 1, got {getattr(args, name)}.", param=name)
    missing = [name for name in _PACKAGES[args.protocol] if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"--protocol {args.protocol} needs {' and '.join(missing)}. Install the [bench] extra.", param="protocol")


def _connect(url: str, protocol: str) -> None:
    """Before clients are started, each of which would say the same in its library's words."""
    host, _, port = url.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, OverflowError, UnicodeError) as error:  # the latter two: no port, no name
        why = getattr(error, "strerror", None) or str(error)
        face = "Triton's gRPC port" if protocol == "grpc" else "the OpenAI front end"
        raise EngineError(f"No connection to {url} ({why}). Is the server running, and is this the address of {face}?") from None
