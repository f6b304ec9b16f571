"""POST /v1/abort_requests: ends answers by their ids, in FastDeploy's form. A key ends its own answers only."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from ernie_backend.errors import InvalidRequestError

from ..body import read_json_object
from ..schemas import parse_model
from ..terms import tenant_of
from .common import frontend_of

router = APIRouter()

MAX_IDS = 4096


class AbortBody(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    abort_all: bool = False
    """All answers under way that the same key asked for."""
    req_ids: list[str] | None = Field(default=None, max_length=MAX_IDS)
    """Ids of answers: `chatcmpl-…`, `cmpl-…`."""


@router.post("/v1/abort_requests")
async def abort_requests(request: Request) -> dict[str, Any]:
    body = parse_model(AbortBody, await read_json_object(request))
    ids = list(dict.fromkeys(body.req_ids or ()))
    if body.abort_all and ids:
        raise InvalidRequestError("Give either abort_all or req_ids.", param="abort_all")
    if not body.abort_all and not ids:
        raise InvalidRequestError(
            "req_ids must name an answer (or set abort_all to true).", param="req_ids", code="missing_required_parameter"
        )
    aborted = await frontend_of(request).client.abort(tenant_of(request), None if body.abort_all else tuple(ids))
    result = {"aborted": list(aborted), "not_found": [answer_id for answer_id in ids if answer_id not in aborted]}
    return {"status": "success", "error_message": None, "result": result}
