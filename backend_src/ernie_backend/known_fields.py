"""Which fields an object of a request may have, by the same rule everywhere: null is not given, and what nobody knows is named. A leaf."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from .errors import InvalidRequestError

WITHOUT_EFFECT = frozenset(("cache_control", "prompt_cache_breakpoint", "id", "index", "annotations", "extras"))
"""In parts of messages and in tools: where other servers should cache a prompt (here every prefix is), and how client libraries number and
remark the parts of an answer that they send back."""


def check_known(given: Mapping[str, Any], known: Collection[str], place: str, *, without_effect: Collection[str] = ()) -> None:
    """Raises `InvalidRequestError` naming the first field of the object at `place` that is neither known nor null."""
    for name, value in given.items():
        if value is not None and name not in known and name not in without_effect:
            raise unknown_field(name, known, place)


def unknown_field(name: str, known: Collection[str], place: str) -> InvalidRequestError:
    return InvalidRequestError(f"Unknown field {name[:80]!r} in {place}. Known: {', '.join(known)}.", param=f"{place}.{name[:80]}")
