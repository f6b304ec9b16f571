"""POST /v1/completions."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from ..answers import CompletionStyle
from ..body import read_json_object
from ..convert import plan_completion
from ..openapi import answer_or_stream, body_of
from ..schemas import CompletionRequest, parse_request
from .common import answer, frontend_of

router = APIRouter()


@router.post(
    "/v1/completions",
    response_class=Response,
    responses=answer_or_stream("Completion", "Completion"),
    openapi_extra=body_of(CompletionRequest),
)
async def completions(request: Request) -> Response:
    body = parse_request(CompletionRequest, await read_json_object(request))
    return await answer(request, plan_completion(body, frontend_of(request).settings), CompletionStyle())
