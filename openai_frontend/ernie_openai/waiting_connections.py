"""Which connections of this process wait for their client's next request, the longest first: they make room for others when files run out.

Anybody may open connections and say nothing on them. Each is a file, and without one left nobody is heard any more: no client, and not
`serve`, which asks for /health and would take the front end for hung, with all the answers that it is giving.
"""

from __future__ import annotations

import asyncio
import resource

BACKLOG = 2048
"""Connections that nobody has taken yet; uvicorn's own number. asyncio may take as many before it looks at the first of them."""
_OTHER_FILES = 256
"""Of the process: its connections to tritonserver, its listening socket, what libraries open."""


class WaitingConnections:
    """One per process."""

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Transport, None] = {}

    def add(self, transport: asyncio.Transport) -> None:
        """It waits from now on."""
        self.remove(transport)
        self._waiting[transport] = None

    def remove(self, transport: asyncio.Transport) -> None:
        """Its client has the word no more, or it is closed."""
        self._waiting.pop(transport, None)

    def make_room(self, num_connections: int) -> None:
        """Close the one that has waited longest, if there are too many connections, of whatever kind."""
        if num_connections > most_connections() and self._waiting:
            oldest = next(iter(self._waiting))
            self.remove(oldest)
            oldest.close()


def most_connections() -> int:
    """Of the files that this process may open, as it is now."""
    most_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(most_files // 2, most_files - BACKLOG - _OTHER_FILES)
