"""Reads a checkpoint's JSON files key by key, strictly; knows no model.

A wrong value raises `CheckpointError` naming file, key, value and rule.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from .errors import CheckpointError

log = logging.getLogger(__name__)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file of a model folder."""
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"The model folder {str(path.parent)!r} has no {path.name}.", param="model") from None
    except OSError as error:
        raise CheckpointError(f"{str(path)!r} cannot be read: {error.strerror}.", param="model") from None
    except RecursionError:
        raise CheckpointError(f"{str(path)!r} is nested too deeply.", param="model") from None
    except ValueError as error:
        raise CheckpointError(f"{str(path)!r} is not valid JSON: {error}.", param="model") from None
    if not isinstance(given, dict):
        raise CheckpointError(f"{str(path)!r} must hold a JSON object.", param="model")
    return given


class JsonReader:
    """Takes keys out of a JSON object one by one, so that what is left at the end is what we do not know."""

    def __init__(self, file: str, given: dict[str, Any]) -> None:
        self.file = file
        self.given = given
        self.seen: set[str] = set()

    def take(self, key: str, default: Any) -> Any:
        self.seen.add(key)
        value = self.given.get(key, default)
        return default if value is None else value

    def integer(self, key: str, default: int | None = None, low: int = 1) -> int:
        value = self.take(key, default)
        if value is None:
            raise CheckpointError(f"{self.file}: {key} is missing.", param=key)
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise self.error(key, value, f"an integer ≥ {low}")
        return value

    def integers(self, key: str, default: list[int], low: int = 1) -> list[int]:
        """A list of integers; one integer counts as a list of one."""
        value = self.take(key, default)
        values = value if isinstance(value, list) else [value]
        if not values or any(isinstance(v, bool) or not isinstance(v, int) or v < low for v in values):
            raise self.error(key, value, f"an integer ≥ {low}, or a list of them")
        return values

    def number(self, key: str, default: float) -> float:
        value = self.take(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
            raise self.error(key, value, "a number above 0")
        return float(value)

    def numbers(self, key: str, default: tuple[float, ...], low: float) -> tuple[float, ...]:
        value = self.take(key, list(default))
        good = isinstance(value, list) and len(value) == len(default)
        if not good or any(isinstance(v, bool) or not isinstance(v, (int, float)) or not low <= v <= 1 for v in value):
            raise self.error(key, value, f"{len(default)} numbers from {low} to 1")
        return tuple(float(v) for v in value)

    def boolean(self, key: str, default: bool) -> bool:
        value = self.take(key, default)
        if not isinstance(value, bool):
            raise self.error(key, value, "true or false")
        return value

    def must_be(self, key: str, allowed: Any) -> None:
        """A key that would change the maths (`facts`: none was ever seen with another value)."""
        value = self.take(key, allowed)
        if value != allowed:
            raise self.error(key, value, repr(allowed))

    def rope_parameters(self, kind: str) -> dict[str, Any]:
        """What `rope_scaling` and `rope_parameters` say; another rotary kind than `kind` is an error."""
        merged: dict[str, Any] = {}
        for key in ("rope_scaling", "rope_parameters"):
            given = self.take(key, {})
            found = given.get("rope_type", given.get("type", kind)) if isinstance(given, dict) else given
            if found != kind:
                raise self.error(key, found, repr(kind))
            merged |= given
        if merged.get("factor") not in (None, 1):
            raise self.error("rope_scaling", merged["factor"], "factor 1")
        return merged

    def log_unknown(self, known: str) -> None:
        unknown = sorted(set(self.given) - self.seen - set(known.split()))
        if unknown:
            log.info("%s: keys without a meaning here: %s", self.file, ", ".join(unknown))

    def error(self, key: str, value: Any, rule: str) -> CheckpointError:
        return CheckpointError(f"{self.file}: {key} is {value!r}, supported: {rule}.", param=key)
