"""GET /metrics: Triton's, with the engine's, and the front end's own, of all its workers."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request, Response

from ..metrics_text import with_histograms
from ..openapi import text_answer
from .common import frontend_of

router = APIRouter()


@router.get("/metrics", response_class=Response, responses=text_answer("Prometheus text.", "text/plain"))
async def metrics(request: Request) -> Response:
    frontend = frontend_of(request)
    of_triton = with_histograms((await frontend.client.metrics()).decode("utf-8", errors="replace")).encode()
    own = await asyncio.to_thread(frontend.http_metrics.text)
    return Response(of_triton + own, headers={"content-type": "text/plain; version=0.0.4; charset=utf-8"})
