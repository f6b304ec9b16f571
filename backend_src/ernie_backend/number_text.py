"""Numbers that come as text, in flags and in requests, read by the same rule; a leaf."""

from __future__ import annotations

import re

_NOT_IN_A_NUMBER = re.compile(r"[^\x21-\x7e]|_")
"""What Python's `float` lets pass besides: spaces, underscores, digits of other scripts."""


def number_of(text: str) -> float | None:
    """The number, finite or not; None: it is none."""
    try:
        return None if _NOT_IN_A_NUMBER.search(text) else float(text)
    except ValueError:
        return None
