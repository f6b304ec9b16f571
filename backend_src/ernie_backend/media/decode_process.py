"""Keeps the helper processes that decode (`decode_worker.py`): starts them, asks them, replaces one that died or took too long."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import threading
from dataclasses import asdict
from typing import Any

from ..abort_signal import NEVER, AbortSignal
from ..errors import ConfigError, ErnieError, from_wire
from ..media_fields import MediaPart, ProcessorKwargs
from ..protocol import MediaKind
from .config import MediaConfig
from .network import stopping
from .patches import LoadedMedia
from .sniff import MediaError

DECODERS = 2
"""Images decoded at once by one preprocess process, and videos likewise: cores and memory are bounded, downloads are not held up."""
MEMORY_BYTES = 4 * 2**30
"""Address space of one. 89 million pixels with transparency take 1 GiB, Python with FFmpeg 0.5 GiB."""
SECONDS = {MediaKind.IMAGE: 60.0, MediaKind.VIDEO: 120.0}
"""For one item; the decoder of videos itself gives up earlier, with a better word."""
_BOOT = (
    "import sys, json; sys.path[:] = json.loads(sys.stdin.buffer.readline()); from ernie_backend.media.decode_worker import main; main()"
)


class DecodeProcesses:
    """For several threads at once. `close` when done."""

    def __init__(
        self,
        python: str,
        config: MediaConfig,
        max_tokens: int,
        *,
        decoders: int = DECODERS,
        memory_bytes: int = MEMORY_BYTES,
        seconds: dict[MediaKind, float] | None = None,
    ) -> None:
        """`python`: the program to run them with. `ConfigError` if it cannot."""
        settings = {"config": config.to_json_object(), "max_tokens": max_tokens, "memory_bytes": memory_bytes}
        start = f"{json.dumps(sys.path)}\n{json.dumps(settings)}\n".encode("ascii")
        self._all = [_Worker(python, start) for _ in range(decoders * len(MediaKind))]
        self._free: dict[MediaKind, queue.LifoQueue[_Worker]] = {kind: queue.LifoQueue() for kind in MediaKind}
        for i, worker in enumerate(self._all):
            self._free[list(MediaKind)[i % len(MediaKind)]].put(worker)
        self._seconds = seconds or SECONDS
        self._closing = threading.Event()
        try:
            self._all[0].start()  # one is warm, and what is missing is known now
        except EOFError:
            self.close()
            raise ConfigError(
                "The helper process that decodes images does not start; its own message stands above.", param="model"
            ) from None

    def decode(self, data: bytes, part: MediaPart, settings: ProcessorKwargs, signal: AbortSignal = NEVER) -> LoadedMedia:
        """As `Decoder.decode`; a file that ends or outlasts its decoder is a `MediaError`, too. Waits for a decoder to be free.
        `RequestAbortedError` when `signal` is set, which ends the decoder at work."""
        free = self._free[part.kind]
        worker = free.get()  # the last one used: it is warm
        try:
            if self._closing.is_set():
                raise stopping()
            with signal.ending(worker.end):
                return worker.decode(data, part, settings, self._seconds[part.kind])
        except EOFError:
            signal.check()
            if self._closing.is_set():
                raise stopping() from None
            raise MediaError("made its decoder fail or take too long") from None
        finally:
            free.put(worker)

    def close(self) -> None:
        """End them all, at work or not."""
        self._closing.set()
        for worker in self._all:
            worker.kill()


class _Worker:
    """One helper process, started when it is first needed. For one thread at a time, but for `kill` and `end`."""

    def __init__(self, python: str, start: bytes) -> None:
        self._command = [python, "-I", "-c", _BOOT]
        self._start_message = start
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._is_closed = False

    def decode(self, data: bytes, part: MediaPart, settings: ProcessorKwargs, seconds: float) -> LoadedMedia:
        """EOFError if the process ends over it, or is ended because of the time."""
        asked = {"part": asdict(part) | {"kind": part.kind.value, "url": ""}, "settings": asdict(settings), "num_bytes": len(data)}
        timer = threading.Timer(seconds, self.end)
        timer.start()
        try:
            answer, patches = self._exchange(self.start(), json.dumps(asked).encode("ascii") + b"\n", data)
        finally:
            timer.cancel()
        if "media_error" in answer:
            raise MediaError(answer["media_error"])
        if "error" in answer:
            error: ErnieError = from_wire(answer["error"])
            raise error
        grid = (answer["grid"][0], answer["grid"][1], answer["grid"][2])
        return LoadedMedia(MediaKind(answer["kind"]), patches, grid, answer["num_tokens"], bytes.fromhex(answer["content_hash"]))

    def kill(self) -> None:
        """For good."""
        with self._lock:
            self._is_closed = True
        self.end()

    def start(self) -> subprocess.Popen[bytes]:
        """The process, ready to be asked. EOFError if it does not start."""
        with self._lock:
            if self._is_closed:
                raise EOFError
            if self._process is not None and self._process.poll() is None:
                return self._process
            self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, close_fds=True)
        self._exchange(self._process, self._start_message)
        return self._process

    def _exchange(self, process: subprocess.Popen[bytes], line: bytes, data: bytes = b"") -> tuple[dict[str, Any], bytes]:
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(line)
            process.stdin.write(data)
            process.stdin.flush()
            answered = process.stdout.readline()
            answer = json.loads(answered) if answered.endswith(b"\n") else None
            patches = process.stdout.read(answer.get("num_bytes", 0)) if answer else b""
        except (BrokenPipeError, ValueError):  # ValueError: a pipe that was closed meanwhile
            answer, patches = None, b""
        if answer is None or len(patches) != answer.get("num_bytes", 0):
            self.end()
            raise EOFError
        return answer, patches

    def end(self) -> None:
        """The process at work, if there is one; the next item gets a fresh one. From any thread."""
        process = self._process
        if process is None:
            return
        process.kill()  # it holds nothing that would have to be put in order
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
