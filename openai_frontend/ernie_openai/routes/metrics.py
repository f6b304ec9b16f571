"""GET /metrics: Triton's own, unchanged."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from ..openapi import text_answer
from .common import frontend_of

router = APIRouter()


@router.get("/metrics", response_class=Response, responses=text_answer("Prometheus text.", "text/plain"))
async def metrics(request: Request) -> Response:
    return Response(await frontend_of(request).client.metrics(), headers={"content-type": "text/plain; version=0.0.4; charset=utf-8"})
