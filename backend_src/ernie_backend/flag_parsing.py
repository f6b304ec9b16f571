"""argparse with words that say what is wanted, as its own ("invalid int value") do not, and that are JSON where the log is; knows no flag
but that of the log."""

from __future__ import annotations

import argparse
import itertools
import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from .log_format import json_line
from .number_text import number_of
from .strict_json import doubled_name

_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")

MAX_WORKERS = 64
"""Of the front end. One takes 90 MB and carries some 2,000 chunks a second: so many carry more than one engine computes."""
MAX_PENDING_BYTES = 2**30
"""Of one answer that nobody reads: beyond, the limit would protect nothing."""
MOST_SECONDS = 86400
MAX_LOG_CHARACTERS = 2**24
"""A request's body has no more."""


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
    found = ["json" for flag, value in itertools.pairwise(arguments) if (flag, value) == ("--log-format", "json")]
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
    return whole(1)(text)


def whole(least: int, most: int | None = None, why: str = "") -> Callable[[str], int]:
    """The parser of a whole number within these bounds; `why`: what to say of them."""
    bounds = f"of at least {least}" if most is None else f"from {least} to {most}"

    def parse(text: str) -> int:
        value = int(text) if _INTEGER.fullmatch(text) else least - 1
        if value < least or (most is not None and value > most):
            raise argparse.ArgumentTypeError(f"must be a whole number {bounds}{why and f' ({why})'}, got {_shown(text)}")
        return value

    return parse


worker_count = whole(1, MAX_WORKERS, "more carry no more than the engine computes, and each takes some 90 MB")


def port_number(text: str) -> int:
    return _port(text, 1)


def port_or_any(text: str) -> int:
    """0: one that is free."""
    return _port(text, 0)


def number(text: str) -> float:
    """Of any sign, not finite ones too; what range it must have, whoever uses it says."""
    value = number_of(text)
    if value is None:
        raise argparse.ArgumentTypeError(f"must be a number, got {_shown(text)}")
    return value


def seconds(text: str) -> float:
    return _seconds(text, "")


def seconds_or_off(text: str) -> float | None:
    """−1: None, no limit."""
    return None if number_of(text) == -1 else _seconds(text, ", or -1 for no limit")


def seconds_or_longest(text: str) -> float:
    """0: as long as it takes, which is a day at most."""
    return float(MOST_SECONDS) if number_of(text) == 0 else _seconds(text, ", or 0 for no limit")


def _seconds(text: str, others: str) -> float:
    value = number_of(text)
    if value is None or not 0 < value <= MOST_SECONDS:
        raise argparse.ArgumentTypeError(f"must be a number of seconds above 0 and at most {MOST_SECONDS}{others}, got {_shown(text)}")
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
        value = json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"must be a JSON object, got {_shown(text)}")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    doubled = doubled_name(pairs)
    if doubled is not None:
        raise argparse.ArgumentTypeError(f"holds {_shown(doubled)} twice")
    return dict(pairs)


def not_empty(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("must not be empty")
    if not text.isprintable():
        raise argparse.ArgumentTypeError(f"must not hold line breaks or other signs that cannot be seen, got {_shown(text)}")
    return text


def _port(text: str, least: int) -> int:
    value = int(text) if _INTEGER.fullmatch(text) else -1
    if not least <= value <= 65535:
        raise argparse.ArgumentTypeError(f"must be a port from {least} to 65535, got {_shown(text)}")
    return value


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:80] + "…")
