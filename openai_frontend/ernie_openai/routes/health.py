"""GET and HEAD /health, GET, HEAD and POST /ping: 200 without a body when Triton and the ensemble take requests, else 503."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from ernie_backend.errors import UnavailableError

from .common import frontend_of

router = APIRouter()


@router.get("/health")
@router.head("/health", include_in_schema=False)
@router.get("/ping")
@router.head("/ping", include_in_schema=False)
@router.post("/ping")
async def health(request: Request) -> Response:
    if not await frontend_of(request).client.is_ready():
        raise UnavailableError("The model server is not ready.")
    return Response()
