"""Puts the front end together: middleware, routes, error handlers; knows none of their insides."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from ernie_backend.tracing import Tracer

from .client import EngineClient
from .errors import install_error_handlers
from .http_metrics import HttpMetrics
from .middleware import ApiKeyMiddleware, BodyLimitMiddleware
from .observing import ObservingMiddleware
from .routes import chat, completions, health, metrics, models, status_page
from .routes.common import Frontend
from .settings import FrontendSettings


def create_app(settings: FrontendSettings, client: EngineClient, tracer: Tracer | None = None) -> FastAPI:
    """The ASGI application; it closes `client` and `tracer` when it ends."""
    http_metrics = HttpMetrics()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await client.close()
        if tracer is not None:
            await asyncio.to_thread(tracer.close)  # it sends what is left

    app = FastAPI(lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.frontend = Frontend(settings, client, started=int(time.time()), http_metrics=http_metrics)
    app.add_middleware(BodyLimitMiddleware, max_body_bytes=settings.max_body_bytes)
    app.add_middleware(ApiKeyMiddleware, api_keys=settings.api_keys)
    logs = settings.observability.access_log
    app.add_middleware(ObservingMiddleware, metrics=http_metrics, logs=logs, tracer=tracer)  # added last, asked first
    for routes in (chat, completions, models, health, metrics, status_page):
        app.include_router(routes.router)
    install_error_handlers(app)
    return app
