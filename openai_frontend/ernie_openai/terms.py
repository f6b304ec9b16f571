"""How a request is to be treated, read from its headers and its key, not from its body: whose it is and how long it may take."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from fastapi import Request

from ernie_backend.errors import InvalidRequestError

TIMEOUT_HEADER = "X-Request-Timeout"
MAX_TIMEOUT_SECONDS = 7 * 86400
_NUMBER = re.compile(r"([0-9]{1,20}(\.[0-9]{0,20})?|\.[0-9]{1,20})([eE][+-]?[0-9]{1,3})?")

TENANT = "ernie.tenant"
"""Where the middleware that checks keys leaves an opaque name of the key, in the ASGI scope; absent where no keys are asked for."""


@dataclass(frozen=True)
class Terms:
    tenant: str = ""
    """Shares the queue fairly with others, and may abort its own requests only."""
    timeout_microseconds: int = 0
    """From its arrival to its end; 0: no limit."""


def terms_of(request: Request) -> Terms:
    """Raises `InvalidRequestError` for a header that cannot be meant."""
    return Terms(tenant_of(request), _timeout(request.headers.getlist(TIMEOUT_HEADER)))


def tenant_of(request: Request) -> str:
    tenant: Any = request.scope.get(TENANT, "")
    return str(tenant)


def _timeout(lines: list[str]) -> int:
    if not lines:
        return 0
    given = ", ".join(lines)  # as HTTP has it; no number, if there is more than one
    seconds = float(given) if _NUMBER.fullmatch(given) else math.nan
    if not 0 < seconds <= MAX_TIMEOUT_SECONDS:
        raise InvalidRequestError(
            f"{TIMEOUT_HEADER} must be a number of seconds above 0 and at most {MAX_TIMEOUT_SECONDS}, got {given[:40]!r}.",
            param=TIMEOUT_HEADER,
        )
    return math.ceil(seconds * 1e6)
