"""`ernie-triton bench WHAT`: the family of measurements; measures nothing itself."""

from __future__ import annotations

import argparse

from . import bench_engine, bench_path, bench_server


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """One subcommand for each thing to measure; each sets `args.run`."""
    bench = subparsers.add_parser("bench", help="measure the engine, or a running server", allow_abbrev=False)
    kinds = bench.add_subparsers(dest="what", required=True, metavar="WHAT")
    bench_engine.add_parser(kinds)
    bench_server.add_parser(kinds)
    bench_path.add_parser(kinds)
