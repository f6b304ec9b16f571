"""What a server that was killed has left is removed by the next start that can see it, and nothing of one that lives."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import pytest

from ernie_backend.cli import private_folder
from ernie_backend.cli.private_folder import PrivateFolder
from ernie_backend.errors import ConfigError


class Machine:
    """Where servers are started, each with the temporary folder and the shared memory that it sees."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._root, self._monkeypatch = root, monkeypatch

    def start(self, temporary: str, shared_memory: str) -> PrivateFolder:
        for name in (temporary, shared_memory):
            (self._root / name).mkdir(exist_ok=True)
        self._monkeypatch.setattr(tempfile, "tempdir", str(self._root / temporary))
        self._monkeypatch.setattr(private_folder, "_SHARED_MEMORY", self._root / shared_memory)
        self._monkeypatch.setattr(private_folder, "_LONGEST_PARENT", 1000)
        made = PrivateFolder()
        self.region(made, shared_memory).touch()
        return made

    def region(self, server: PrivateFolder, shared_memory: str) -> Path:
        """Of a stub."""
        return self._root / shared_memory / f"{server.shared_memory_prefix}1efb22be"

    def left(self, shared_memory: str) -> set[str]:
        return {path.name for path in (self._root / shared_memory).iterdir()}


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def kill(server: PrivateFolder) -> None:
    """What the kernel does when the last process that has the locks is gone."""
    for lock in server.locks:
        os.close(lock)


def test_a_living_servers_is_left_alone_and_goes_with_it(machine: Machine) -> None:
    with machine.start("tmp", "shm") as living:
        with machine.start("tmp", "shm") as other:
            assert living.path.is_dir() and machine.region(living, "shm").exists()
            assert stat.S_IMODE(living.path.stat().st_mode) == 0o700
        assert not other.path.exists() and not machine.region(other, "shm").exists()
        living.close_shared_memory()
        assert stat.S_IMODE(machine.region(living, "shm").stat().st_mode) == 0o600
        living.remove_shared_memory()  # its tritonserver was killed
        assert not machine.region(living, "shm").exists()
        with machine.start("elsewhere", "shm"):
            assert any(living.path.name in name for name in machine.left("shm")), "it still lives"
    assert not living.path.exists() and not machine.left("shm")


def test_a_dead_servers_is_removed(machine: Machine) -> None:
    dead = machine.start("tmp", "shm")
    kill(dead)
    with machine.start("tmp", "shm"):
        assert not dead.path.exists()
        assert not any(dead.path.name in name for name in machine.left("shm"))


def test_a_start_that_does_not_see_its_shared_memory_leaves_that_to_one_that_does(machine: Machine) -> None:
    """A container with a /dev/shm of its own that shares /tmp removes the folder; nothing else spoke of the memory."""
    dead = machine.start("tmp", "shm")
    kill(dead)
    with machine.start("tmp", "shm of a container"):
        assert not dead.path.exists() and machine.region(dead, "shm").exists()
    with machine.start("tmp", "shm"):
        assert not any(dead.path.name in name for name in machine.left("shm"))


def test_a_start_that_does_not_see_its_folder_removes_the_shared_memory(machine: Machine) -> None:
    dead = machine.start("tmp of a container", "shm")
    kill(dead)
    with machine.start("tmp", "shm"):
        assert dead.path.is_dir() and not any(dead.path.name in name for name in machine.left("shm"))


def test_without_shared_memory_it_is_told_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(private_folder, "_SHARED_MEMORY", tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="which tritonserver needs: No such file"):
        PrivateFolder()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["ernie-triton-*", "ernie-triton-abcdefgh"])
def test_what_a_stranger_puts_there_makes_us_remove_nothing(machine: Machine, tmp_path: Path, name: str) -> None:
    """A name that means others' files, or a link to a file of ours that nobody has locked."""
    mine = tmp_path / "mine"
    mine.touch()
    with machine.start("tmp", "shm") as living:
        trap = tmp_path / "tmp" / name
        trap.mkdir()
        (trap / "lock").symlink_to(mine)
        (tmp_path / "shm" / f"{name}-lock").symlink_to(mine)
        with machine.start("tmp", "shm"):
            assert living.path.is_dir() and machine.region(living, "shm").exists()
            assert trap.is_dir() and mine.exists()
