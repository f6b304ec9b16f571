"""What stands before every route: the API key and the size of the body. Pure ASGI, so that streams and hang-ups pass untouched."""

from __future__ import annotations

import hmac
from hashlib import sha256

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ernie_backend.errors import AuthenticationError, PayloadTooLargeError

from .errors import error_response
from .terms import TENANT


def _header(scope: Scope, name: bytes) -> bytes | None:
    return next((value for key, value in scope["headers"] if key == name), None)


class ApiKeyMiddleware:
    """Asks for `Authorization: Bearer KEY` on every path below /v1, whether it exists or not."""

    def __init__(self, app: ASGIApp, api_keys: tuple[str, ...]) -> None:
        self.app = app
        self._digests = [sha256(key.encode()).digest() for key in api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and f"{scope['path']}/".startswith("/v1/") and not self._is_allowed(scope):
            error = AuthenticationError("The API key is missing or wrong. Send it as 'Authorization: Bearer KEY'.")
            await error_response(error)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _is_allowed(self, scope: Scope) -> bool:
        if not self._digests:
            return True
        scheme, _, key = (_header(scope, b"authorization") or b"").partition(b" ")
        digest = sha256(key.strip()).digest()  # equal lengths, so that the time tells nothing
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        scope[TENANT] = digest.hex()[:16]
        return scheme.lower() == b"bearer" and any(matches)


class BodyLimitMiddleware:
    """Refuses a body beyond the limit with `PayloadTooLargeError`, announced or not. The HTTP server reads on and forgets the rest."""

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self.app = app
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        announced = _header(scope, b"content-length") or b""
        if announced.isdigit() and int(announced[:20]) > self._max_body_bytes:
            await error_response(self._error())(scope, receive, send)
            return
        received = 0

        async def limited_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_body_bytes:
                raise self._error()
            return message

        await self.app(scope, limited_receive, send)

    def _error(self) -> PayloadTooLargeError:
        return PayloadTooLargeError(f"The request body is larger than {self._max_body_bytes} bytes. Send less in one request.")
