"""Short questions to a running server over HTTP; every answer comes within two seconds or is None."""

from __future__ import annotations

import http.client
import ssl

_TIMEOUT_SECONDS = 2.0


def http_status(host: str, port: int, path: str) -> int | None:
    """The status of a GET; None when nobody answers in time."""
    connection = http.client.HTTPConnection(host.strip("[]"), port, timeout=_TIMEOUT_SECONDS)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def front_end_answers(host: str, port: int, *, tls: bool, asks_for_certificate: bool = False) -> bool:
    """Whether the front end is healthy. Where it asks its clients for a certificate, which we have not, that it speaks TLS must do."""
    if not tls:
        return http_status(host, port, "/health") == 200
    connection = http.client.HTTPSConnection(host.strip("[]"), port, timeout=_TIMEOUT_SECONDS, context=ssl._create_unverified_context())
    try:
        connection.connect()
        if asks_for_certificate:
            return True
        connection.request("GET", "/health", headers={"Connection": "close"})
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
