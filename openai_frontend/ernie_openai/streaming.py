"""Carries events and chunks between engine and client: several prompts as one stream, server-sent events, hang-ups; reads no content."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from fastapi import Response
from starlette.types import Receive, Scope, Send

from ernie_backend.errors import ErnieError, InvalidRequestError, UnavailableError

from .answers import AnswerStyle, ChunkMaker, UsageMeter, hold_back, numbered
from .backlog import Backlog
from .client import AnswerEvent, EngineClient, EnsembleRequest
from .convert import AnswerPlan
from .errors import ClientDisconnectedError, as_ernie_error, dumps, error_object, in_metadata, renamed

log = logging.getLogger(__name__)

Result = TypeVar("Result")

HARMLESS = "ernie.harmless"
"""In a request's ASGI scope, once its answer is a stream: bytes that may be sent between any two lines, and mean nothing."""
_COMMENT = b":\n\n"

_LAST_WORD_SECONDS = 1.0
"""To tell a client that the server stops: one that does not read must not keep it from doing so."""
_QUEUED_EVENTS = 64  # of all prompts of a request together; beyond it their gRPC streams wait


async def _events_of(request: EnsembleRequest, client: EngineClient) -> AsyncGenerator[AnswerEvent, None]:
    """The events of one prompt; errors name the user's field instead of the ensemble's tensor."""
    try:
        async with aclosing(client.generate(request)) as events:
            async for event in events:
                yield event
    except InvalidRequestError as error:
        raise in_metadata(renamed(error, request.prompt_field), request.metadata_fields) from None


async def answer_events(plan: AnswerPlan, client: EngineClient) -> AsyncGenerator[AnswerEvent, None]:
    """The events of all prompts as they come, choices numbered through. The first error of any prompt ends them all."""
    if len(plan.prompts) == 1:
        async with aclosing(_events_of(plan.prompts[0], client)) as events:
            async for event in events:
                yield event
        return
    queue: asyncio.Queue[AnswerEvent | Exception | None] = asyncio.Queue(_QUEUED_EVENTS)

    async def forward(position: int) -> None:
        try:
            async with aclosing(_events_of(plan.prompts[position], client)) as events:
                async for event in events:
                    await queue.put(numbered(event, position * plan.choices_per_prompt))
        except Exception as error:
            await queue.put(error)
        else:
            await queue.put(None)

    tasks = [asyncio.ensure_future(forward(position)) for position in range(len(plan.prompts))]
    try:
        running = len(tasks)
        while running:
            item = await queue.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                running -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def answer_lines(
    plan: AnswerPlan, style: AnswerStyle, client: EngineClient, meter: UsageMeter, max_pending_bytes: int
) -> AsyncGenerator[bytes, None]:
    """The answer as server-sent events, up to `[DONE]`; `meter` is filled on the way. However slowly they are taken, the engine's events do
    not wait."""
    maker = ChunkMaker(plan, style, meter)
    async with aclosing(Backlog(answer_events(plan, client), max_pending_bytes).events()) as events:
        async for event in hold_back(events, plan.tokens_per_chunk) if plan.tokens_per_chunk > 1 else events:
            for chunk in maker.chunks(event):
                yield _line(chunk)
    for chunk in maker.last():
        yield _line(chunk)
    yield b"data: [DONE]\n\n"


def _line(value: dict[str, Any]) -> bytes:
    return b"data: " + dumps(value) + b"\n\n"


async def run_until_disconnect(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`, which is cancelled when the client hangs up or the server stops.

    Raises `ClientDisconnectedError` or `UnavailableError` then. `receive` must have delivered the whole body before.
    """

    async def disconnected() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    worker, watcher = asyncio.ensure_future(work), asyncio.ensure_future(disconnected())
    try:
        await asyncio.wait({worker, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if not worker.done():
            raise ClientDisconnectedError
        return worker.result()
    except asyncio.CancelledError:  # only the server cancels a request's own task, when its grace time is over
        raise _stopping() from None
    finally:
        worker.cancel()
        watcher.cancel()
        await asyncio.gather(worker, watcher, return_exceptions=True)


def _stopping() -> UnavailableError:
    return UnavailableError("The server is shutting down. Try again.")


class EventStreamResponse(Response):
    """Sends lines as they come. What fails before the first one keeps its status; what fails later becomes an error event."""

    media_type = "text/event-stream"

    def __init__(self, lines: AsyncGenerator[bytes, None], on_error: Callable[[ErnieError], object]) -> None:
        """`on_error` hears of what fails when the status can no longer tell."""
        self.status_code = 200
        self.background = None
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no"})
        self._lines = lines
        self._on_error = on_error
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[HARMLESS] = _COMMENT
        try:
            await run_until_disconnect(receive, self._send_all(send))
        except ClientDisconnectedError:
            return
        except ErnieError:
            if not self._started:
                raise

    async def _send_all(self, send: Send) -> None:
        async with aclosing(self._lines) as lines:
            line = await anext(lines)
            self._started = True
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            try:
                await send({"type": "http.response.body", "body": line, "more_body": True})
                async for line in lines:
                    await send({"type": "http.response.body", "body": line, "more_body": True})
            except asyncio.CancelledError:  # the client has gone, and hears nothing; or the server stops, and the client shall know
                await self._send_error(send, _stopping())
                raise
            except Exception as error:
                if as_ernie_error(error) is not error:
                    log.exception("An answer failed after its first chunk.")
                await self._send_error(send, error)
                return
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_error(self, send: Send, error: Exception) -> None:
        told = as_ernie_error(error)
        self._on_error(told)
        message = {"type": "http.response.body", "body": _line(error_object(told)), "more_body": False}
        with suppress(OSError, TimeoutError):
            await asyncio.wait_for(send(message), _LAST_WORD_SECONDS if isinstance(error, UnavailableError) else None)
