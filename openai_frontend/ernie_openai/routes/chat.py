"""POST /v1/chat/completions."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from ..answers import ChatStyle
from ..body import read_json_object
from ..convert import plan_chat
from ..openapi import answer_or_stream, body_of
from ..schemas import ChatRequest, parse_request
from .common import answer, frontend_of

router = APIRouter()


@router.post(
    "/v1/chat/completions",
    response_class=Response,
    responses=answer_or_stream("ChatCompletion", "ChatCompletionChunk"),
    openapi_extra=body_of(ChatRequest),
)
async def chat_completions(request: Request) -> Response:
    body = parse_request(ChatRequest, await read_json_object(request))
    return await answer(request, plan_chat(body, frontend_of(request).settings), ChatStyle())
