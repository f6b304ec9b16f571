"""How a request wants to be treated, whatever it asks: time limit, level, tenant, the answer's id; and a request that ends others.

All of it comes as Triton request parameters. `timeout` (microseconds) and `priority` are KServe's; on gRPC, Triton keeps `priority` to
itself, so that it may come as `ernie_priority`. `ernie_tenant`, `ernie_answer_id` and `ernie_abort` are the front end's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import InvalidRequestError
from ..protocol import Level
from ..strict_json import read_object

MAX_TIMEOUT_MICROSECONDS = 7 * 86400 * 10**6
_LEVELS = {0: Level.DEFAULT, **{level.value: level for level in Level}}
"""KServe's `priority` → level; 0 is what is sent when nothing is meant."""
_ABORT = '{"abort":'


@dataclass(frozen=True)
class RequestTerms:
    """Fields of `GenerateRequest`."""

    answer_id: str = ""
    tenant: str = ""
    level: int = Level.DEFAULT
    deadline: float | None = None

    def as_fields(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class AbortRequest:
    """End the tenant's requests (None: everybody's) that go by one of the ids; None: all of them. Takes a request's place between
    preprocess and engine."""

    tenant: str | None
    answer_ids: tuple[str, ...] | None

    def to_json(self) -> str:
        return _ABORT + json.dumps([self.tenant, self.answer_ids], separators=(",", ":")) + "}"

    @classmethod
    def from_json(cls, text: str) -> AbortRequest | None:
        """None if the text is another request's."""
        if not text.startswith(_ABORT):
            return None
        tenant, ids = json.loads(text)["abort"]
        return cls(tenant, None if ids is None else tuple(ids))


def read_terms(parameters: Mapping[str, Any], timeout_microseconds: int, now: float) -> RequestTerms:
    """`timeout_microseconds`: what Triton says of the request, 0 if nothing. `now`: `time.monotonic`. Raises `InvalidRequestError`."""
    timeout = _integer(parameters, "timeout", timeout_microseconds)
    if not 0 <= timeout <= MAX_TIMEOUT_MICROSECONDS:
        raise InvalidRequestError(
            f"timeout must be from 0 (none) to {MAX_TIMEOUT_MICROSECONDS} microseconds, got {timeout}.", param="timeout"
        )
    priority = _integer(parameters, "ernie_priority", _integer(parameters, "priority", 0))
    if priority not in _LEVELS:
        raise InvalidRequestError(f"priority must be 1 (first), 2 (as usual, also 0) or 3 (last), got {priority}.", param="priority")
    return RequestTerms(
        answer_id=str(parameters.get("ernie_answer_id", "")),
        tenant=str(parameters.get("ernie_tenant", "")),
        level=_LEVELS[priority].value,
        deadline=now + timeout / 1e6 if timeout else None,
    )


def read_abort(parameters: Mapping[str, Any]) -> AbortRequest | None:
    """None if the request is none that ends others. `ernie_abort`: {"ids": […]}, or {"ids": null} for all; the tenant's, or with
    `"everyone": true` anybody's."""
    given = parameters.get("ernie_abort")
    if given is None:
        return None
    asked = read_object(str(given), "ernie_abort", "ernie_abort")
    ids, tenant = asked.get("ids"), str(parameters.get("ernie_tenant", ""))
    if ids is not None and (not isinstance(ids, list) or not all(isinstance(answer_id, str) for answer_id in ids)):
        raise InvalidRequestError("ernie_abort.ids must be a list of strings, or null for all.", param="ernie_abort")
    return AbortRequest(None if asked.get("everyone") is True else tenant, None if ids is None else tuple(ids))


def _integer(parameters: Mapping[str, Any], name: str, default: int) -> int:
    value = parameters.get(name)
    if value is None:
        return default
    if isinstance(value, str) and value.isdecimal() and len(value) < 20:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidRequestError(f"{name} must be an integer.", param=name)
    return value
