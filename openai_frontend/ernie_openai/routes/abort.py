"""POST /v1/abort_requests: ends answers by their ids, in FastDeploy's form. A key ends its own answers, an administrator's everybody's."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from ernie_backend.errors import InvalidRequestError

from ..access import ADMIN
from ..body import read_json_object
from ..middleware import caller_of
from ..openapi import answer_of, body_of
from ..schemas import AbortBody, parse_model
from ..terms import tenant_of
from .common import frontend_of

router = APIRouter()


@router.post("/v1/abort_requests", responses=answer_of("AbortResult"), openapi_extra=body_of(AbortBody))
async def abort_requests(request: Request) -> dict[str, Any]:
    body = parse_model(AbortBody, await read_json_object(request))
    ids = list(dict.fromkeys(body.req_ids or ()))
    if body.abort_all and ids:
        raise InvalidRequestError("Give either abort_all or req_ids.", param="abort_all")
    if not body.abort_all and not ids:
        raise InvalidRequestError(
            "req_ids must name an answer (or set abort_all to true).", param="req_ids", code="missing_required_parameter"
        )
    tenant = None if caller_of(request.scope).may(ADMIN) else tenant_of(request)
    aborted = await frontend_of(request).client.abort(tenant, None if body.abort_all else tuple(ids))
    result = {"aborted": list(aborted), "not_found": [answer_id for answer_id in ids if answer_id not in aborted]}
    return {"status": "success", "error_message": None, "result": result}
