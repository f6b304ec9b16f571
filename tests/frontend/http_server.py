"""The front end on a socket, inside the test's event loop, with the HTTP protocol that it has in earnest."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn

from ernie_openai.app import create_app
from ernie_openai.http_protocol import GuardedProtocol

from .fakes import FakeClient, settings


@asynccontextmanager
async def serving(client: FakeClient, *, protocol: type[GuardedProtocol] = GuardedProtocol, **fields: Any) -> AsyncIterator[str]:
    """The base URL of a front end in this event loop."""
    listening = socket.create_server(("127.0.0.1", 0))
    app = create_app(settings(**fields), client)
    config = uvicorn.Config(app, http=protocol, log_level="critical", server_header=False, timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    task = asyncio.ensure_future(server.serve(sockets=[listening]))
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
