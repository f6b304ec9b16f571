"""A seal on what the three steps hand each other, so that a client who calls an inner model directly cannot forge it.

tritonserver offers every model of a repository to every client. The engine takes only requests that preprocess has checked, and postprocess
opens a relay only where the engine says so. The secret is the same in all processes of one server and cannot be known from afar.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .settings import repository_of

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
"""128 random bits of this boot of the machine."""

SIGNATURE_LENGTH = 32
"""Hex digits."""


class Seal:
    """Signs what passes from step to step, and recognises its own signatures."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    @classmethod
    def of_server(cls, args: Mapping[str, str]) -> Seal:
        """The seal of the server that gave these `args` to `initialize`."""
        parts = (_BOOT_ID.read_text(encoding="ascii").strip(), str(os.getuid()), str(repository_of(args)))
        return cls(hashlib.blake2b("\0".join(parts).encode()).digest())

    def of_request(self, request: str, prompt_token_ids: Sequence[int], media: str = "") -> str:
        """From preprocess to the engine: the request's JSON, its ids, and its media's JSON, whose hashes vouch for the patches."""
        return self._sign(request, ",".join(map(str, prompt_token_ids)), media)

    def of_first_response(self, key: str, relay: str, post: Mapping[str, Any]) -> str:
        """From the engine to postprocess: whose response it is, where to answer, and how to read it."""
        return self._sign(key, relay, json.dumps(post, separators=(",", ":")))

    def of_aborted(self, key: str, answer_ids: Sequence[str]) -> str:
        """From the engine to postprocess: what a request to end others has ended."""
        return self._sign("aborted", key, *answer_ids)

    def of_refusal(self, key: str, error: str) -> str:
        """From the engine to postprocess: why a request ends that has waited."""
        return self._sign("refused", key, error)

    def _sign(self, *texts: str) -> str:
        message = b"".join(len(data).to_bytes(8, "little") + data for data in (text.encode("utf-8") for text in texts))
        return hashlib.blake2b(message, key=self._secret, digest_size=SIGNATURE_LENGTH // 2).hexdigest()


def is_same(signature: object, expected: str) -> bool:
    """Compared in constant time; anything but text is not."""
    return isinstance(signature, str) and hmac.compare_digest(signature.encode("utf-8"), expected.encode("utf-8"))
