"""GET and HEAD /health, GET, HEAD and POST /ping: 200 without a body when Triton and the ensemble take requests, else 503."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from ernie_backend.errors import UnavailableError

from ..openapi import text_answer
from .common import frontend_of

router = APIRouter()


_READY = text_answer("Requests are taken.")


@router.get("/health", response_class=Response, responses=_READY)
@router.head("/health", include_in_schema=False)
@router.get("/ping", response_class=Response, responses=_READY)
@router.head("/ping", include_in_schema=False)
@router.post("/ping", response_class=Response, responses=_READY)
async def health(request: Request) -> Response:
    frontend = frontend_of(request)
    outage = frontend.settings.outage
    if outage is not None:
        raise UnavailableError(outage)
    if not await frontend.client.is_ready():
        raise UnavailableError("The model server is not ready.")
    return Response()
