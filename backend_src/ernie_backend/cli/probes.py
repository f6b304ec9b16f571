"""Short questions to a running server over HTTP; every answer comes within two seconds or is None."""

from __future__ import annotations

import http.client
import re
import ssl

_TIMEOUT_SECONDS = 2.0
_UNDER_WAY = re.compile(r"^ernie_sequences_(?:running|waiting)(?:\{[^}]*\})? (\S+)$", re.MULTILINE)


def http_status(host: str, port: int, path: str) -> int | None:
    """The status of a GET; None when nobody answers in time."""
    answer = _get(host, port, path)
    return answer[0] if answer else None


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


def sequences_under_way(host: str, metrics_port: int) -> int | None:
    """Sequences that the engine computes or queues, from tritonserver's metrics; None if they do not say."""
    answer = _get(host, metrics_port, "/metrics")
    counts = _UNDER_WAY.findall(answer[1]) if answer else []
    return int(sum(map(float, counts))) if counts else None


def _get(host: str, port: int, path: str) -> tuple[int, str] | None:
    connection = http.client.HTTPConnection(host.strip("[]"), port, timeout=_TIMEOUT_SECONDS)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        response = connection.getresponse()
        return response.status, response.read().decode("utf-8", errors="replace")
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
