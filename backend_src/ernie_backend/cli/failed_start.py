"""What the lines and the end of a child process of `serve` say: noise, a model that does not load, or nobody's fault; starts nothing."""

from __future__ import annotations

import re
import signal

from .processes import Child

_LOST_LOCK = "boost::interprocess::lock_exception"
"""The last line of a tritonserver 2.51 that ended by its own fault, on a machine with ten times the load that it can bear."""
_FAILED_LOAD = re.compile(r"failed to load '(?P<model>\w+)' version \d+: \w+: (?:TritonModelException: )?(?P<text>.*)")
_NOISE = (
    "CudaDriverHelper has not been initialized",  # tritonserver without a GPU: this and the next two
    "CUDA driver version is insufficient",
    "no pinned memory pool",
    "No ccache found",  # paddle at every import: the rest
    "warnings.warn(warning_message)",
    "OMP_NUM_THREADS set to",
    "PLEASE USE OMP_NUM_THREADS",
    "Signal (15) received",
    "Exit timeout expired",  # a client keeps a connection open
    "Non-graceful termination detected",  # a model's process, after that
)
"""What is always said and never means anything; `--verbose` shows it."""


class ServeError(Exception):
    """The server cannot start or has died; the text is for the user."""


class NoMoreRestartsError(ServeError):
    """Whatever may come of another try."""


class NoFaultOfTheModelError(ServeError):
    """tritonserver neither starts nor fails, or fails by itself: worth another try, also the first time."""


def is_noise(line: str) -> bool:
    """Whether a line of tritonserver's is one that tells a user nothing."""
    return any(noise in line for noise in _NOISE)


def failed_start(child: Child) -> ServeError:
    """Of one that has ended before it was ready; all that it said has been collected."""
    if child.exit_code == -signal.SIGABRT and any(_LOST_LOCK in line for line in child.tail):
        return NoFaultOfTheModelError("tritonserver aborted while it loaded, over a lock of its own.")
    return ServeError(_load_failure(child))


def _load_failure(child: Child) -> str:
    """Why a child ended before it was ready: the model's own error text if tritonserver reports one, else its last lines."""
    for line in child.tail:
        match = _FAILED_LOAD.search(line)
        if match:
            text = match["text"].split(r"\n\nAt:")[0].rstrip('"')
            return f"{match['model']} did not load: {text}"
    last = "\n  ".join(list(child.tail)[-10:])
    return f"{child.name} ended before it was ready ({how_it_ended(child.exit_code)}). Its last lines:\n  {last}"


def how_it_ended(exit_code: int | None) -> str:
    """For a sentence in brackets: the signal's name, or the exit code."""
    if exit_code is not None and exit_code < 0:
        return f"killed by {signal.Signals(-exit_code).name}"
    return f"exit code {exit_code}"
