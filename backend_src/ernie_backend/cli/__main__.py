"""The `ernie-triton` command, from its first moment: what a signal does before anything runs. Imports nothing that takes time."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand (`subcommands.run`); returns its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["serve"]:
        with _ended_by_signals():  # until `serve` takes them over, when it begins to have something to put in order
            from .subcommands import run

            return run(arguments)
    with _ended_by_signals():
        from .subcommands import run  # here, not above: it takes a fifth of a second
    return run(arguments)


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """A SIGINT or SIGTERM that comes within ends the process without a word, with 130 or 143. Python would say where it was in a traceback;
    and a process that is a container's first one has no default to end by."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number, handler in before.items():
        if handler not in (signal.SIG_IGN, None):  # ignored: by whoever started us; None: not Python's
            signal.signal(number, _end)
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is _end:
                signal.signal(number, handler)


def _end(number: int, _: object) -> None:
    os._exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
