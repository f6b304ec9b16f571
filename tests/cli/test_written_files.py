"""Files that are there in one step, and what is said where they cannot be."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ernie_backend.cli.written_files import link, put, writing
from ernie_backend.errors import ConfigError


def test_many_put_the_same_at_once(tmp_path: Path) -> None:
    content = bytes(100_000)
    targets = (tmp_path / "copy", tmp_path / "link")

    def write(_: int) -> None:
        put(targets[0], lambda new: new.write_bytes(content))
        link(targets[0], targets[1])
        assert targets[0].read_bytes() == targets[1].read_bytes() == content

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(200)))
    assert sorted(tmp_path.iterdir()) == sorted(targets)


def test_what_cannot_be_made_leaves_what_was_there(tmp_path: Path) -> None:
    def make(new: Path) -> None:
        new.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (target := tmp_path / "file").write_bytes(b"before")
    with pytest.raises(ConfigError, match=r"Nothing can be written to .*: No space left on device\."), writing(tmp_path):
        put(target, make)
    assert target.read_bytes() == b"before" and list(tmp_path.iterdir()) == [target]
