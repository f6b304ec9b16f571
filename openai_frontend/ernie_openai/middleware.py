"""What stands before every route: request id, key and scope, limits of head and body. Pure ASGI: streams and hang-ups pass untouched.

What is wrong before a request is one (framing, heads that never end) is refused in `http_protocol.py`.
"""

from __future__ import annotations

import asyncio
import re
import time
import uuid

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ernie_backend.errors import (
    AuthenticationError,
    ErnieError,
    PayloadTooLargeError,
    PermissionDeniedError,
)

from .access import ANYONE, Caller, KeyRing, scope_of
from .errors import REQUEST_ID_HEADER, HeadersTooLargeError, SlowBodyError, UriTooLongError, error_response

_KNOWN_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
"""What is repeated of a client's own id; nothing that could break a line of a log or a header."""

MAX_TARGET_BYTES = 8192
MAX_HEADERS = 100
MAX_HEADER_BYTES = 32 * 1024
"""All names and values together."""
BODY_GRACE_SECONDS = 30.0
MIN_BODY_BYTES_PER_SECOND = 16 * 1024
"""A body may take the grace, and as long as it would take at this rate: a client that drips bytes holds nothing for long."""


def caller_of(scope: Scope) -> Caller:
    """Whose request it is, once `AccessMiddleware` has let it in."""
    caller: Caller = scope["ernie.caller"]
    return caller


def _header(scope: Scope, name: bytes) -> bytes | None:
    return next((value for key, value in scope["headers"] if key == name), None)


class RequestIdMiddleware:
    """Gives every request an id, `scope["ernie.request_id"]`, and every response that id and `nosniff`. A client may give its own id."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = _header(scope, REQUEST_ID_HEADER.encode()) or b""
        request_id = given.decode() if _KNOWN_REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope["ernie.request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID_HEADER] = request_id
                headers["x-content-type-options"] = "nosniff"
            await send(message)

        await self.app(scope, receive, send_with_id)


class AccessMiddleware:
    """Asks for `Authorization: Bearer KEY` with the path's scope, whether the path exists or not."""

    def __init__(self, app: ASGIApp, key_ring: KeyRing) -> None:
        self.app = app
        self._key_ring = key_ring

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            error = self._refusal(scope)
            if error is not None:
                await error_response(error)(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _refusal(self, scope: Scope) -> ErnieError | None:
        """None: the request may pass, and bears its caller."""
        wanted = scope_of(scope["path"])
        if wanted is None or not self._key_ring.asks:
            scope["ernie.caller"] = ANYONE
            return None
        scheme, _, key = (_header(scope, b"authorization") or b"").partition(b" ")
        caller = self._key_ring.caller(key.strip()) if scheme.lower() == b"bearer" else None
        if caller is None:
            return AuthenticationError("The API key is missing or wrong. Send it as 'Authorization: Bearer KEY'.")
        if not caller.may(wanted):
            return PermissionDeniedError(f"This API key may not do that: its scopes lack {wanted!r}. Use another key.")
        scope["ernie.caller"], scope["ernie.tenant"] = caller, caller.name
        return None


class LimitsMiddleware:
    """Refuses what is too long (URL, headers, body) or does not come in time.

    The HTTP server reads on and forgets the rest of a body that was refused.
    """

    def __init__(self, app: ASGIApp, max_body_bytes: int, body_grace_seconds: float = BODY_GRACE_SECONDS) -> None:
        self.app = app
        self._max_body_bytes = max_body_bytes
        self._body_grace_seconds = body_grace_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        error = self._fault_of_head(scope)
        if error is not None:
            await error_response(error)(scope, receive, send)
            return
        await self.app(scope, self._limited(receive), send)

    def _fault_of_head(self, scope: Scope) -> ErnieError | None:
        if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > MAX_TARGET_BYTES:
            return UriTooLongError(f"The URL is longer than {MAX_TARGET_BYTES} bytes.")
        headers = scope["headers"]
        if len(headers) > MAX_HEADERS or sum(len(name) + len(value) for name, value in headers) > MAX_HEADER_BYTES:
            return HeadersTooLargeError(f"A request may have {MAX_HEADERS} headers of together {MAX_HEADER_BYTES} bytes.")
        announced = _header(scope, b"content-length")
        if announced is not None and announced.isdigit() and int(announced[:20]) > self._max_body_bytes:
            return self._too_large()
        return None

    def _limited(self, receive: Receive) -> Receive:
        received, complete = 0, False
        begun = time.monotonic()

        async def limited_receive() -> Message:
            nonlocal received, complete
            if complete:  # what comes now is the hang-up, which may take as long as the answer
                return await receive()
            seconds = self._body_grace_seconds + received / MIN_BODY_BYTES_PER_SECOND
            try:
                async with asyncio.timeout(begun + seconds - time.monotonic()):
                    message = await receive()
            except TimeoutError:
                raise SlowBodyError("The request body did not arrive in time. Send it again, faster or smaller.") from None
            received += len(message.get("body", b""))
            complete = message["type"] != "http.request" or not message.get("more_body", False)
            if received > self._max_body_bytes:
                raise self._too_large()
            return message

        return limited_receive

    def _too_large(self) -> PayloadTooLargeError:
        return PayloadTooLargeError(f"The request body is larger than {self._max_body_bytes} bytes. Send less in one request.")
