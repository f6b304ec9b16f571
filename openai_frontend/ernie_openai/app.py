"""Puts the front end together: middleware, routes, error handlers; knows none of their insides."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from .access import KeyRing
from .client import EngineClient
from .errors import REQUEST_ID_HEADER, install_error_handlers
from .middleware import AccessMiddleware, LimitsMiddleware, RequestIdMiddleware
from .openapi import document
from .routes import chat, completions, health, metrics, models
from .routes.common import Frontend
from .settings import FrontendSettings


def create_app(settings: FrontendSettings, client: EngineClient) -> FastAPI:
    """The ASGI application; it closes `client` when it ends."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.openapi()  # made once; it takes a tenth of a second, which would hold up others later
        yield
        await client.close()

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.frontend = Frontend(settings, client, started=int(time.time()))
    # The one added last is asked first.
    app.add_middleware(LimitsMiddleware, max_body_bytes=settings.max_body_bytes)
    app.add_middleware(AccessMiddleware, key_ring=KeyRing(settings.api_keys, settings.api_key_file))
    if settings.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.allowed_origins,
            allow_methods=("GET", "POST"),
            allow_headers=("*",),  # OpenAI's own library sends a dozen of its own
            expose_headers=(REQUEST_ID_HEADER, "Retry-After"),
        )
    app.add_middleware(RequestIdMiddleware)
    for routes in (chat, completions, models, health, metrics):
        app.include_router(routes.router)
    install_error_handlers(app)
    app.openapi = partial(document, app)  # type: ignore[method-assign]
    return app
