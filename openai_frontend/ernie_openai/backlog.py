"""Between an answer's events and a client that may read slowly: takes events at once, joins those that wait; knows neither HTTP nor gRPC.

An event that nobody takes would wait inside tritonserver, which queues without limit and tells nobody. So they are always taken, and it
is here that they wait: joined, so that a client that lags gets larger pieces, and up to a limit, so that it takes no memory from others.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from .answers import join_events
from .client import AnswerEvent
from .errors import SlowReaderError

_JOIN_EVERY = 32
"""Events are joined in such groups while they wait: an object for each token would take ten times the memory of its text."""
_BYTES_PER_TOKEN = 40
_BYTES_PER_LOGPROB = 400
"""With its token, id and bytes as Python objects; as much for each alternative."""


class Backlog:
    """Iterate `events()` once."""

    def __init__(self, source: AsyncGenerator[AnswerEvent, None], max_bytes: int) -> None:
        """`source` is closed with the iteration, and at once when more than `max_bytes` wait: then the iteration ends with
        `SlowReaderError`, behind what waited."""
        self._source = source
        self._max_bytes = max_bytes
        self._waiting: dict[int, list[AnswerEvent]] = {}  # by choice
        self._num_bytes = 0
        self._came = asyncio.Event()
        self._failure: Exception | None = None

    async def events(self) -> AsyncGenerator[AnswerEvent, None]:
        """The source's events; those of a choice that came while the last one was being dealt with are one."""
        reader = asyncio.ensure_future(self._read())
        try:
            ended = False
            while not ended:
                await self._came.wait()
                self._came.clear()
                ended = reader.done() or self._failure is not None
                taken, self._waiting, self._num_bytes = self._waiting, {}, 0
                for events in taken.values():
                    yield join_events(events)
            if self._failure is not None:
                raise self._failure
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def _read(self) -> None:
        try:
            async with aclosing(self._source) as source:
                async for event in source:
                    events = self._waiting.setdefault(event.index, [])
                    events.append(event)
                    if len(events) >= _JOIN_EVERY:
                        events[:] = [join_events(events)]
                    self._num_bytes += _size(event)
                    self._came.set()
                    if self._num_bytes > self._max_bytes:
                        raise SlowReaderError(
                            f"The client reads too slowly: more than {self._max_bytes} bytes of this answer wait for it. Read faster, or "
                            "ask for less (logprobs, n, max_tokens)."
                        )
        except Exception as error:
            self._failure = error
        finally:
            asyncio.get_running_loop().call_soon(self._came.set)  # when this task is done


def _size(event: AnswerEvent) -> int:
    """Bytes that the event takes while it waits, roughly."""
    size = len(event.text) + len(event.reasoning) + _BYTES_PER_TOKEN * len(event.token_ids)
    size += sum(_BYTES_PER_LOGPROB * (1 + len(item["top_logprobs"])) for item in event.logprobs)
    return size + sum(len(str(call)) for call in event.tool_calls)
