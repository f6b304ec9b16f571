"""GET /health, GET and POST /ping: 200 without a body when Triton and the ensemble take requests, else 503."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from ernie_backend.errors import UnavailableError

from .common import frontend_of

router = APIRouter()


@router.get("/health")
@router.get("/ping")
@router.post("/ping")
async def health(request: Request) -> Response:
    frontend = frontend_of(request)
    outage = frontend.settings.outage
    if outage is not None:
        raise UnavailableError(outage)
    if not await frontend.client.is_ready():
        raise UnavailableError("The model server is not ready.")
    return Response()
