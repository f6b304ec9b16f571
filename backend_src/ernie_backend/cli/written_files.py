"""Files that `serve` and `env` put where a server may be running: each is there in one step, and what speaks against it is one line."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import ConfigError


def put(target: Path, make: Callable[[Path], object]) -> None:
    """What `make` makes, at `target`: beside a running server, which keeps its own, and beside others who do the same."""
    with tempfile.TemporaryDirectory(prefix=".new-", dir=target.parent) as folder:
        new = Path(folder) / target.name
        make(new)
        os.replace(new, target)


def link(source: Path, target: Path) -> None:
    """A symbolic link to `source`, in place of what is at `target`."""
    put(target, lambda new: new.symlink_to(source))


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """`ConfigError` where the block cannot write below `folder`."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"Nothing can be written to {folder}, which tritonserver needs: {error.strerror}.") from None
