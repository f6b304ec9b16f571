"""Short questions to a running server over HTTP; every answer comes within some seconds or is None."""

from __future__ import annotations

import http.client
import ssl

_TIMEOUT_SECONDS = 2.0


def http_status(host: str, port: int, path: str, timeout_seconds: float = _TIMEOUT_SECONDS) -> int | None:
    """The status of a GET; None when nobody answers in time."""
    connection = http.client.HTTPConnection(host.strip("[]"), port, timeout=timeout_seconds)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def front_end_health(
    host: str, port: int, *, tls: bool, asks_for_certificate: bool = False, timeout_seconds: float = _TIMEOUT_SECONDS
) -> int | None:
    """The status of /health. Where it asks its clients for a certificate, which we have not, that it speaks TLS counts as 200."""
    if not tls:
        return http_status(host, port, "/health", timeout_seconds)
    context = ssl._create_unverified_context()
    connection = http.client.HTTPSConnection(host.strip("[]"), port, timeout=timeout_seconds, context=context)
    try:
        connection.connect()
        if asks_for_certificate:
            return 200
        connection.request("GET", "/health", headers={"Connection": "close"})
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
