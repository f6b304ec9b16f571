"""Ties the life of a process group to ours, by the kernel alone: whoever is left of it when we are killed gets SIGKILL, too, whatever its
threads wait for. Starts nothing, and waits for nothing.

A pipe whose reading end the group keeps open, and whose writing end is ours: when we are gone, the kernel tells the reader's owner, and the
owner is the group, and the signal is SIGKILL (`fcntl(2)`: F_SETOWN, F_SETSIG, O_ASYNC). `PR_SET_PDEATHSIG` reaches a child only, and is
forgotten by what that child starts.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal


class DeathPact:
    """Made before the group's first process, which must inherit `reading_end`."""

    def __init__(self) -> None:
        self.reading_end, writing_end = os.pipe()
        self._writing_end: int | None = writing_end

    def bind(self, group: int) -> None:
        """Once its first process runs. Where the kernel knows no such signals, nothing is bound."""
        with contextlib.suppress(OSError):
            fcntl.fcntl(self.reading_end, fcntl.F_SETOWN, -group)
            fcntl.fcntl(self.reading_end, fcntl.F_SETSIG, signal.SIGKILL)
            fcntl.fcntl(self.reading_end, fcntl.F_SETFL, os.O_RDONLY | os.O_ASYNC)
        os.close(self.reading_end)

    def close(self) -> None:
        """When the group has ended: who still belongs to it is killed now."""
        if self._writing_end is not None:
            os.close(self._writing_end)
            self._writing_end = None
