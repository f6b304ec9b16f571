"""Puts the front end together: middleware, routes, error handlers; knows none of their insides."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from ernie_backend.tracing import Tracer

from .access import KeyRing
from .client import EngineClient
from .draining import Drain, DrainMiddleware
from .errors import REQUEST_ID_HEADER, install_error_handlers
from .http_metrics import HttpMetrics
from .middleware import AccessMiddleware, LimitsMiddleware, RequestIdMiddleware
from .observing import ObservingMiddleware
from .openapi import document
from .routes import abort, chat, completions, health, metrics, models, status_page
from .routes.common import Frontend
from .settings import FrontendSettings


def create_app(settings: FrontendSettings, client: EngineClient, tracer: Tracer | None = None, drain: Drain | None = None) -> FastAPI:
    """The ASGI application; it closes `client` and `tracer` when it ends. `drain`: how it hears that it is about to."""
    http_metrics = HttpMetrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.openapi()  # made once; it takes a tenth of a second, which would hold up others later
        yield
        await client.close()
        if tracer is not None:
            await asyncio.to_thread(tracer.close)  # it sends what is left

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.frontend = Frontend(settings, client, started=int(time.time()), http_metrics=http_metrics)
    # The one added last is asked first.
    app.add_middleware(LimitsMiddleware, max_body_bytes=settings.max_body_bytes)
    app.add_middleware(DrainMiddleware, drain=drain or Drain())
    app.add_middleware(AccessMiddleware, key_ring=KeyRing(settings.api_keys, settings.api_key_file))
    if settings.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.allowed_origins,
            allow_methods=("GET", "POST"),
            allow_headers=("*",),  # OpenAI's own library sends a dozen of its own
            expose_headers=(REQUEST_ID_HEADER, "Retry-After"),
        )
    logs = settings.observability.access_log
    app.add_middleware(ObservingMiddleware, metrics=http_metrics, logs=logs, tracer=tracer)
    app.add_middleware(RequestIdMiddleware)
    for routes in (chat, completions, abort, models, health, metrics, status_page):
        app.include_router(routes.router)
    install_error_handlers(app)
    app.openapi = partial(document, app)  # type: ignore[method-assign]
    return app
