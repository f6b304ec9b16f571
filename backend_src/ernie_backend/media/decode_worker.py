"""The helper process that decodes: Pillow and FFmpeg on bytes from strangers, under limits that the operating system keeps.

A decoder that crashes, loops or eats memory over a crafted file ends here, and costs its own request only. Started by `decode_process.py`.

In, once: a line of JSON {config, max_tokens, memory_bytes}; out, when ready: {}. Then for each item, in: {part, settings, num_bytes} and
the bytes; out: {kind, grid, num_tokens, content_hash, num_bytes} and the patches, or {media_error} or {error}. End of input ends it.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import warnings
from typing import Any, BinaryIO

from ..errors import ErnieError
from ..media_fields import MediaPart, ProcessorKwargs
from ..protocol import MediaKind
from .config import MediaConfig
from .decode import Decoder
from .sniff import MediaError


def main() -> None:
    source = sys.stdin.buffer
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not mix with the answers
    settings = json.loads(source.readline())
    _limit(settings["memory_bytes"])
    warnings.simplefilter("ignore")  # of Pillow about images that are refused anyway
    decoder = Decoder(MediaConfig.from_json_object(settings["config"]), settings["max_tokens"])
    _send(sink, {})
    while line := source.readline():
        asked = json.loads(line)
        answer, patches = _answer(decoder, asked, source.read(asked["num_bytes"]))
        _send(sink, answer, patches)


def _answer(decoder: Decoder, asked: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
    part = asked["part"]
    part |= {"kind": MediaKind(part["kind"]), "settings": ProcessorKwargs(**part["settings"])}
    try:
        loaded = decoder.decode(data, MediaPart(**part), ProcessorKwargs(**asked["settings"]))
    except MediaError as error:
        return {"media_error": str(error)}, b""
    except ErnieError as error:
        return {"error": error.to_wire()}, b""
    except MemoryError:
        return {"media_error": "needs too much memory to be decoded"}, b""
    answer = {"kind": loaded.kind.value, "grid": loaded.grid, "num_tokens": loaded.num_tokens, "content_hash": loaded.content_hash.hex()}
    return {**answer, "num_bytes": len(loaded.patches)}, loaded.patches


def _send(sink: BinaryIO, answer: dict[str, Any], patches: bytes = b"") -> None:
    sink.write(json.dumps(answer).encode("ascii") + b"\n" + patches)
    sink.flush()


def _limit(memory_bytes: int) -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # the parent's threads may block signals, and a child inherits that
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; this process ends with its input
    for limit, value in ((resource.RLIMIT_AS, memory_bytes), (resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, 0)):
        hard = resource.getrlimit(limit)[1]
        resource.setrlimit(limit, (value if hard == resource.RLIM_INFINITY else min(value, hard),) * 2)
