"""`ernie-triton bench path`: the real server around a clock in place of the model, loaded with streams, beside what a naive path does."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..errors import ConfigError
from ..flag_parsing import integer, number
from .background import RunningServer, running_server
from .commands import find_model_repository
from .flags import numbers

MODES = {
    "adaptive": (),
    "interval-1": ("--stream-interval", "1"),
    "naive": (),
}
"""How tokens are delivered → flags of `serve`. `naive` is another model repository."""
_PROMPT_TOKENS = 16
_MOST_PROCESSES = 8
_PACKAGES = {"grpc": ("grpc", "tritonclient"), "http": ("aiohttp",)}


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """The subcommand's flags; `args.run` is set to `run`."""
    parser = subparsers.add_parser(
        "path",
        help="what tritonserver, our three models and the front end deliver, without a model that would take time",
        description="Serves a model folder whose engine is a clock: every step takes --step-ms and gives every stream a token. Three ways "
        "of delivering are compared: adaptive (the default of `serve`), interval-1 (no merging), naive (a usual ensemble).",
        allow_abbrev=False,
    )
    parser.add_argument("--streams", default="1,16,64,256", metavar="N,N,…", help="answers at once (default: %(default)s)")
    parser.add_argument("--tokens", type=integer, default=512, metavar="N", help="of every answer (default: %(default)s)")
    parser.add_argument("--step-ms", type=number, default=20.0, metavar="MS", help="time of a step (default: %(default)s)")
    parser.add_argument("--protocols", default="grpc,http", metavar="NAME,…", help="default: %(default)s; naive has grpc only")
    parser.add_argument("--modes", default=",".join(MODES), metavar="NAME,…", help="default: %(default)s")
    parser.add_argument("--workers", type=integer, default=1, metavar="N", help="processes of the front end (default: %(default)s)")
    processes = min(_MOST_PROCESSES, max(1, (os.cpu_count() or 2) // 2))
    parser.add_argument("--processes", type=integer, default=processes, metavar="N", help="clients (default: half the cores, at most 8)")
    parser.add_argument("--tritonserver", metavar="PATH", help="as `serve` takes it")
    parser.add_argument("--out", metavar="FILE", help="write the numbers as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the table; 1 if a request failed. Raises `ConfigError` for wrong flags and missing packages."""
    streams, protocols, modes = _check(args)
    report: dict[str, Any] = {"step_ms": args.step_ms, "tokens": args.tokens, "workers": args.workers, "processes": args.processes}
    report |= {"cores": os.cpu_count(), "date": time.strftime("%Y-%m-%d %H:%M:%S"), "rows": []}
    print(
        f"steps of {args.step_ms:g} ms, {args.tokens} tokens an answer, {os.cpu_count()} cores, "
        f"{args.workers} front-end and {args.processes} client processes"
    )
    print(
        f"{'mode':>10} {'face':>5} {'streams':>8} {'offered':>8} {'tok/s':>8} {'resp/s':>7} {'TTFT ms p50':>12} {'p99':>8} "
        f"{'late ms p50':>12} {'p99':>8} {'CPU µs/token: total':>20}  by process, peak MB",
        flush=True,
    )
    with tempfile.TemporaryDirectory(prefix="ernie-bench-path-") as name:
        model = _model_folder(Path(name))
        for mode in modes:
            _run_mode(args, mode, streams, [p for p in protocols if mode != "naive" or p == "grpc"], Path(name), model, report)
    return 1 if any(row["failed"] for row in report["rows"]) else 0


def _run_mode(
    args: argparse.Namespace, mode: str, streams: list[int], protocols: list[str], folder: Path, model: Path, report: dict[str, Any]
) -> None:
    from ..benchmark.path_bench import job_for, measure, table_of

    ids, texts = table_of(model)
    with contextlib.ExitStack() as stack:
        log_path, server = _serve(args, mode, max(streams), folder, model, (ids, texts), stack)
        for protocol in protocols:
            address = server.triton_grpc if protocol == "grpc" else server.openai_url.removeprefix("http://")
            for number, count in enumerate(streams):
                job = job_for(
                    *(protocol, address, count),
                    prompt=_PROMPT_TOKENS,
                    tokens=args.tokens,
                    seed=1000 * len(report["rows"]) + number,
                    token_texts=texts if protocol == "http" else (),
                )
                with tqdm(total=count, unit="answer", desc=f"{mode} {protocol} {count}", leave=False, disable=None) as bar:
                    row = measure(mode, job, args.processes, log_path, server.process.pid, bar.update)
                report["rows"].append(asdict(row))
                _print(report["rows"][-1], args)
                if args.out:
                    Path(args.out).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _serve(
    args: argparse.Namespace, mode: str, most: int, folder: Path, model: Path, table: tuple[Any, Any], stack: contextlib.ExitStack
) -> tuple[str, RunningServer]:
    """(the clock's log, the server)"""
    from ..benchmark.path_bench import Clock, clock_model, write_naive_repository, write_repository

    repository = folder / mode
    repository.mkdir()
    clock = Clock(table[0], args.step_ms / 1e3, str(folder / f"{mode}.log"))
    if mode == "naive":
        write_naive_repository(repository, clock, table[1])
    else:
        write_repository(repository, find_model_repository(None), clock_model(clock))
    longest = args.tokens + _PROMPT_TOKENS + 1
    flags = ["--model-repository", str(repository), "--max-num-seqs", str(most), "--max-model-len", str(longest)]
    flags += ["--num-gpu-blocks-override", str(most * -(-longest // 64)), "--workers", str(args.workers), *MODES[mode]]
    flags += ["--max-num-batched-tokens", str(max(2048, most * _PROMPT_TOKENS))]
    flags += ["--tritonserver", args.tritonserver] if args.tritonserver else []
    return clock.log_path, stack.enter_context(running_server(str(model), flags))


def _model_folder(folder: Path) -> Path:
    """Configuration and tokenizer of the smallest model; nobody reads its weights."""
    from .__main__ import main

    out = folder / "model"
    with contextlib.redirect_stdout(None):
        if main(["random-checkpoint", "--like", "ERNIE-4.5-0.3B", "--no-weights", "--out", str(out)]):
            raise ConfigError("The model folder could not be written.")
    return out


def _print(row: dict[str, Any], args: argparse.Namespace) -> None:
    tokens = row["streams"] * args.tokens
    total = sum(row["cpu_seconds"].values()) / tokens * 1e6
    parts = ", ".join(
        f"{name} {seconds / tokens * 1e6:.0f} ({row['peak_bytes'].get(name, 0) / 1e6:.0f})"
        for name, seconds in row["cpu_seconds"].items()
        if seconds / tokens * 1e6 >= 0.5 or name in ("engine", "postprocess", "tritonserver")
    )
    first, late = row["first_token_ms"], row["lateness_ms"]
    offered = row["streams"] * 1e3 / args.step_ms
    print(
        f"{row['mode']:>10} {row['protocol']:>5} {row['streams']:8} {offered:8.0f} {row['tokens_per_second']:8.0f} "
        f"{row['responses_per_second']:7.0f} {first[0]:12.1f} {first[1]:8.1f} {late[0]:12.2f} {late[1]:8.1f} {total:20.0f}  {parts}",
        flush=True,
    )
    if row["error"]:
        print(f"the first of {row['failed']} failures: {row['error']}", flush=True)


def _check(args: argparse.Namespace) -> tuple[list[int], list[str], list[str]]:
    streams, protocols, modes = numbers(args.streams, "--streams"), args.protocols.split(","), args.modes.split(",")
    for flag, given, known in (("protocols", protocols, tuple(_PACKAGES)), ("modes", modes, tuple(MODES))):
        unknown = [name for name in given if name not in known]
        if unknown:
            raise ConfigError(f"--{flag} must be some of {', '.join(known)}, got {unknown[0]!r}.", param=flag)
    for name in ("tokens", "workers", "processes"):
        if getattr(args, name) < 1:
            raise ConfigError(f"--{name} must be at least 1, got {getattr(args, name)}.", param=name)
    if not 0.1 <= args.step_ms <= 10_000:
        raise ConfigError(f"--step-ms must be from 0.1 to 10000, got {args.step_ms:g}.", param="step_ms")
    missing = [name for protocol in protocols for name in _PACKAGES[protocol] if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"bench path needs {' and '.join(missing)}. Install the [bench] extra.", param="protocols")
    return streams, protocols, modes
