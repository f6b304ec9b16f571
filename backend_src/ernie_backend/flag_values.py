"""Types for argparse that say what is wanted: its own words ("invalid int value") do not; a leaf: knows no flag."""

from __future__ import annotations

import argparse
import json
import math
import re
from typing import Any

_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")


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
    value = int(text) if _INTEGER.fullmatch(text) else 0
    if not 1 <= value <= 65535:
        raise argparse.ArgumentTypeError(f"must be a port from 1 to 65535, got {_shown(text)}")
    return value


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


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:80] + "…")
