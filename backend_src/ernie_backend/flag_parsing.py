"""argparse with words that say what is wanted, as its own ("invalid int value") do not, and that are JSON where the log is; knows no flag
but that of the log."""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
import time
from collections.abc import Sequence
from typing import Any, NoReturn

from .log_format import json_line

_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")


class FlagParser(argparse.ArgumentParser):
    """Tells of mistakes like argparse, but as one line of the log where `--log-format json` is given."""

    _given: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self._given = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        if log_format_of(self._given) != "json":
            super().error(message)
        self.exit(2, mistake(self.prog, message, "json") + "\n")


def log_format_of(arguments: Sequence[str]) -> str:
    """What is asked for in a command line that may be wrong."""
    found = ["json" for flag, value in zip(arguments, (*arguments[1:], ""), strict=True) if (flag, value) == ("--log-format", "json")]
    return "json" if found or "--log-format=json" in arguments else "text"


def mistake(program: str, message: str, log_format: str) -> str:
    """The line that says why a program does not start."""
    if log_format == "json":
        return json_line(program.rpartition(" ")[2], "error", message, {}, created=time.time())
    return f"{program}: error: {message}"


def integer(text: str) -> int:
    """Of any sign; what range it must have, whoever uses it says."""
    if not _INTEGER.fullmatch(text):
        raise argparse.ArgumentTypeError(f"must be a whole number, got {_shown(text)}")
    return int(text)


def positive(text: str) -> int:
    return _whole(text, 1)


def count(text: str) -> int:
    return _whole(text, 0)


def port_number(text: str) -> int:
    return _port(text, 1)


def port_or_any(text: str) -> int:
    """0: one that is free."""
    return _port(text, 0)


def number(text: str) -> float:
    """Of any sign, not finite ones too; what range it must have, whoever uses it says."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, got {_shown(text)}") from None


def seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 86400:
        raise argparse.ArgumentTypeError(f"must be a number of seconds above 0 and at most 86400, got {_shown(text)}")
    return value


def switch(text: str) -> bool:
    try:
        value = json.loads(text.lower())
    except ValueError:
        value = None
    if value not in (True, False, 0, 1):
        raise argparse.ArgumentTypeError(f"must be true or false, got {_shown(text)}")
    return bool(value)


def json_object(text: str) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"must be a JSON object, got {_shown(text)}")
    return value


def not_empty(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def _whole(text: str, least: int) -> int:
    value = int(text) if _INTEGER.fullmatch(text) else least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}, got {_shown(text)}")
    return value


def _port(text: str, least: int) -> int:
    value = int(text) if _INTEGER.fullmatch(text) else -1
    if not least <= value <= 65535:
        raise argparse.ArgumentTypeError(f"must be a port from {least} to 65535, got {_shown(text)}")
    return value


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:80] + "…")
