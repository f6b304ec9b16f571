"""Who may do what: the key ring, the file behind it, and which scope a path asks for; knows no ASGI and no route."""

from __future__ import annotations

import hmac
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

from ernie_backend.api_keys import ADMIN, INFER, METRICS, SCOPES, ApiKey, left_open, make_key, read_key_file
from ernie_backend.errors import ConfigError

log = logging.getLogger(__name__)

_LOOK_AT_FILE_SECONDS = 1.0
OPEN_PATHS = frozenset(("/", "/health", "/ping"))
_OPEN_BELOW = "/status/"
"""They tell nobody anything: whether the server is ready; the status page and its parts, which are static and ask for the key."""
_SCOPE_OF_PATH = {"/metrics": METRICS}


@dataclass(frozen=True)
class Caller:
    """Whose request this is."""

    name: str
    """Tells callers apart; empty where no keys are asked for."""
    scopes: frozenset[str]

    def may(self, scope: str) -> bool:
        """An administrator may do everything."""
        return scope in self.scopes or ADMIN in self.scopes


ANYONE = Caller("", frozenset(SCOPES))
"""The caller where no keys are asked for."""


def scope_of(path: str) -> str | None:
    """The scope that a path asks for, whether there is such a path or not; None: open to everyone."""
    return None if path in OPEN_PATHS or path.startswith(_OPEN_BELOW) else _SCOPE_OF_PATH.get(path, INFER)


class KeyRing:
    """The keys of flags and environment, and those of a file, which is read again when it has changed.

    Each process looks for itself, at most once a second, when it is asked. A file that cannot be read or has a mistake leaves the keys as
    they were; one that is empty leaves none, and nobody in.
    """

    def __init__(self, keys: tuple[str, ...], key_file: str | None, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises `ConfigError` if the file cannot be read or has a mistake."""
        self._fixed = tuple(make_key(key) for key in keys)
        self._file = key_file
        self._clock = clock
        self._looked = clock()
        self._stamp = self._stamp_of_file()
        self._of_file = read_key_file(key_file) if key_file is not None else ()

    @property
    def asks(self) -> bool:
        """Whether keys are asked for at all; never changes while the server runs."""
        return bool(self._fixed) or self._file is not None

    def caller(self, presented: bytes) -> Caller | None:
        """Whose key that is; None: nobody's. Takes the same time for every key that is wrong."""
        self._look_at_file()
        digest = sha256(presented).digest()  # equal lengths, so that the time tells nothing
        found: ApiKey | None = None
        for key in (*self._fixed, *self._of_file):  # all of them: no early end
            if hmac.compare_digest(digest, key.digest):
                found = key
        return None if found is None else Caller(found.name, found.scopes)

    def _look_at_file(self) -> None:
        if self._file is None or self._clock() - self._looked < _LOOK_AT_FILE_SECONDS:
            return
        self._looked = self._clock()
        stamp = self._stamp_of_file()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._of_file = read_key_file(self._file)
        except ConfigError as error:
            log.error("The API keys stay as they were. %s", error.message)
        else:
            log.warning("The file of API keys has changed: it holds %d now.", len(self._of_file))
            if (open_to := left_open(self._file)) is not None:
                log.warning("The file of API keys %s.", open_to)

    def _stamp_of_file(self) -> tuple[int, int, int] | None:
        if self._file is None:
            return None
        try:
            found = os.stat(self._file)
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino
