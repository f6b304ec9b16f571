"""API keys and what each may do: how they are written in flags, environment and file; knows no HTTP and compares nothing."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from .errors import ConfigError

ENVIRONMENT_VARIABLE = "FD_API_KEY"
"""FastDeploy's name: one key, or several with commas between them."""

INFER, METRICS, ADMIN = "infer", "metrics", "admin"
SCOPES = (INFER, METRICS, ADMIN)
DEFAULT_SCOPES = frozenset((INFER, METRICS))
"""Of a key that says nothing else: administration has to be asked for by name."""


@dataclass(frozen=True)
class ApiKey:
    """One key. Its text is not kept, so that no log and no traceback can show it."""

    digest: bytes
    """SHA-256 of the key."""
    scopes: frozenset[str] = DEFAULT_SCOPES

    @property
    def name(self) -> str:
        """Tells keys apart in logs and queues, the same in every process; says nothing of the key."""
        return sha256(b"name of " + self.digest).hexdigest()[:12]


def make_key(text: str, scopes: frozenset[str] = DEFAULT_SCOPES) -> ApiKey:
    """Raises `ConfigError` for a text that no client could send; the error does not repeat it."""
    if not text or "," in text or not text.isprintable() or any(map(str.isspace, text)):
        raise ConfigError("An API key must be one word of printable characters without a comma.", param="api_key")
    return ApiKey(sha256(text.encode()).digest(), scopes)


def keys_of_environment(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The keys' texts, in order. `ConfigError` if the variable holds something, but no key: that is not meant to leave the server open."""
    given = environment.get(ENVIRONMENT_VARIABLE, "")
    keys = tuple(key for part in given.split(",") if (key := part.strip()))
    if given and not keys:
        raise ConfigError(
            f"{ENVIRONMENT_VARIABLE} is set and holds no key. Unset it, or give keys with commas between them.", param="api_key"
        )
    return keys


def read_key_file(path: str | Path) -> tuple[ApiKey, ...]:
    """One key a line, behind it its scopes with commas between them; `#` begins a comment line. An empty file lets nobody in.

    Raises `ConfigError` that names file and line, never what stands in it.
    """
    try:
        lines = Path(path).read_bytes().splitlines()  # of bytes: a text also breaks at signs that no editor counts as a line's end
    except OSError as error:
        raise ConfigError(f"The file of API keys {str(path)!r} cannot be read: {error.strerror}.", param="api_key_file") from None
    keys: dict[bytes, ApiKey] = {}
    for number, line in enumerate(lines, 1):
        where = f"Line {number} of the file of API keys {str(path)!r}"
        try:
            words = line.decode().split()
        except UnicodeDecodeError:
            raise ConfigError(f"{where} is not UTF-8 text.", param="api_key_file") from None
        if not words or words[0].startswith("#"):
            continue
        key = _key_of_line(words, where)
        if key.digest in keys:
            raise ConfigError(f"{where} repeats a key.", param="api_key_file")
        keys[key.digest] = key
    return tuple(keys.values())


def left_open(path: str | Path) -> str | None:
    """What others than its owner may do with the file of keys, and how to forbid it, for a warning; None: nothing that they should not. A
    group that reads is meant to."""
    try:
        mode = Path(path).stat().st_mode
    except OSError:
        return None
    reads, writes = bool(mode & stat.S_IROTH), bool(mode & (stat.S_IWGRP | stat.S_IWOTH))
    if not stat.S_ISREG(mode) or not (reads or writes):
        return None
    what = " and ".join(("read",) * reads + ("changed",) * writes)
    return f"can be {what} by others than its owner (mode {stat.S_IMODE(mode):03o}). Keep it to that one: chmod 600"


def _key_of_line(words: list[str], where: str) -> ApiKey:
    if len(words) > 2:
        raise ConfigError(f"{where} must be a key and, behind it, scopes such as infer,metrics.", param="api_key_file")
    scopes = frozenset(words[1].split(",")) if len(words) == 2 else DEFAULT_SCOPES
    if not scopes <= frozenset(SCOPES):
        raise ConfigError(f"{where} has an unknown scope. Scopes are {', '.join(SCOPES)}.", param="api_key_file")
    try:
        return make_key(words[0], scopes)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error.message}", param="api_key_file") from None


def distinct(texts: Iterable[str]) -> tuple[str, ...]:
    """Without repetitions, in order."""
    return tuple(dict.fromkeys(texts))
