"""Puts the front end together: middleware, routes, error handlers; knows none of their insides."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from .client import EngineClient
from .errors import install_error_handlers
from .middleware import ApiKeyMiddleware, BodyLimitMiddleware
from .routes import abort, chat, completions, health, metrics, models
from .routes.common import Frontend
from .settings import FrontendSettings


def create_app(settings: FrontendSettings, client: EngineClient) -> FastAPI:
    """The ASGI application; it closes `client` when it ends."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await client.close()

    app = FastAPI(lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.frontend = Frontend(settings, client, started=int(time.time()))
    app.add_middleware(BodyLimitMiddleware, max_body_bytes=settings.max_body_bytes)
    app.add_middleware(ApiKeyMiddleware, api_keys=settings.api_keys)  # added last, asked first
    for routes in (chat, completions, abort, models, health, metrics):
        app.include_router(routes.router)
    install_error_handlers(app)
    return app
