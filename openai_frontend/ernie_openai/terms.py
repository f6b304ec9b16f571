"""How a request is to be treated, read from its headers and its key, not from its body: whose it is and how long it may take."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from fastapi import Request

from ernie_backend.errors import InvalidRequestError

TIMEOUT_HEADER = "X-Request-Timeout"
MAX_TIMEOUT_SECONDS = 7 * 86400

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
    return Terms(tenant_of(request), _timeout(request.headers.get(TIMEOUT_HEADER)))


def tenant_of(request: Request) -> str:
    tenant: Any = request.scope.get(TENANT, "")
    return str(tenant)


def _timeout(given: str | None) -> int:
    if given is None:
        return 0
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= MAX_TIMEOUT_SECONDS:
        raise InvalidRequestError(
            f"{TIMEOUT_HEADER} must be a number of seconds above 0 and at most {MAX_TIMEOUT_SECONDS}, got {given[:40]!r}.",
            param=TIMEOUT_HEADER,
        )
    return math.ceil(seconds * 1e6)
