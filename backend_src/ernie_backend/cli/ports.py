"""Whether the addresses that `serve` wants are free, and if not, what seems to be in the way."""

from __future__ import annotations

import errno
import socket

from ..errors import ConfigError
from .commands import client_host
from .flags import ServeOptions
from .probes import http_status

_HEALTH = {"--port": "/health", "--triton-http-port": "/v2/health/ready"}
"""Flag → where a server of ours answers on such a port."""


def check_ports(options: ServeOptions) -> None:
    """`ConfigError` naming the first flag whose address cannot be had."""
    for flag in options.ports:
        hold(options, flag).close()


def hold(options: ServeOptions, flag: str) -> socket.socket:
    """A socket that has the flag's address to itself and does not listen: nobody can connect yet. `ConfigError` if it cannot be had."""
    host, port = options.ports[flag]
    try:
        return _bound(host, port)
    except OSError as error:
        hint = _hint(options) if error.errno == errno.EADDRINUSE else "Give another address or port."
        raise ConfigError(f"{flag} {port} cannot be used on {host}: {error.strerror}. {hint}", param=flag) from None


def _bound(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    made = socket.socket(family, kind, protocol)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        # Connections of the last server may linger there, but until somebody listens it would be had by others, too, who say the same.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    except OSError:
        made.close()
        raise
    return made


def _hint(options: ServeOptions) -> str:
    """A server that has been told to stop keeps its ports while its running requests end: then waiting helps, and nothing else does."""
    statuses = [http_status(client_host(host), port, _HEALTH[flag]) for flag, (host, port) in options.ports.items() if flag in _HEALTH]
    if 200 in statuses:
        return "A server that is ready answers there. Stop it, or give other ports."
    if any(status is not None for status in statuses):
        return (
            "A server answers there that is not ready: it starts, or it stops, which takes up to its --timeout-graceful-shutdown while "
            "running requests end. Try again when its process has ended, or give other ports."
        )
    return "Stop what listens there, or give another port."
