"""The subcommands: finds the one that is asked for and turns errors into one line and an exit status."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Sequence

from ..errors import ConfigError, ErnieError
from ..flag_parsing import FlagParser, mistake
from . import bench, doctor, environment, perf, random_checkpoint, serve
from .flags import normalise

_COMMANDS = (serve, doctor, random_checkpoint, environment, perf, bench)
"""Each has `add_parser(subparsers)`, whose parser sets `run`, and `run(args) -> int`."""


def run(arguments: Sequence[str]) -> int:
    """Run one subcommand. Exit status: 0 done, 1 it failed, 2 the command line is wrong."""
    if arguments[:1] == ["serve"]:
        arguments = normalise(arguments)
    parser = FlagParser(prog="ernie-triton", description="Serve ERNIE-4.5 models with Triton Inference Server.")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.add_parser(subparsers)
    args, unknown = parser.parse_known_args(arguments)
    if unknown:
        _refuse_unknown(subparsers.choices[args.command], unknown)
    try:
        return args.run(args)
    except ErnieError as error:
        print(mistake(f"ernie-triton {args.command}", error.message, getattr(args, "log_format", "text")), file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1


def _refuse_unknown(parser: argparse.ArgumentParser, unknown: list[str]) -> None:
    """Exit with status 2, naming the flag that was perhaps meant."""
    name = next((text.partition("=")[0] for text in unknown if text.startswith("-")), None)
    if name is None:
        parser.error(f"{unknown[0]!r} belongs to no flag. See --help.")
    flags = [flag for action in parser._actions for flag in action.option_strings]
    near = difflib.get_close_matches(name, flags, n=1)
    parser.error(f"unknown flag {name}." + (f" Did you mean {near[0]}?" if near else " See --help."))
