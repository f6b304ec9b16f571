"""The socket between postprocess and engine, for real."""

from __future__ import annotations

import os
import queue
import socket
import stat
from pathlib import Path

import pytest

from ernie_backend.relay import RelayReceiver, RelaySender


class Handler:
    """Puts what it hears into a queue."""

    def __init__(self) -> None:
        self.heard: queue.Queue[tuple[object, ...]] = queue.Queue()

    def consumed(self, num_responses: int) -> None:
        self.heard.put(("consumed", num_responses))

    def cancelled(self, key: str) -> None:
        self.heard.put(("cancelled", key))

    def stopped(self, key: str, index: int) -> None:
        self.heard.put(("stopped", key, index))

    def ended(self, reason: str) -> None:
        self.heard.put(("ended", reason))

    def drain(self, seconds: float) -> None:
        self.heard.put(("drain", seconds))


def test_every_message_arrives_in_order() -> None:
    handler = Handler()
    receiver = RelayReceiver(handler)
    sender = RelaySender(receiver.path)
    sender.consumed(3)
    sender.cancelled("k")
    sender.stopped("k", 2)
    sender.ended("tool_calls")
    sender.drain(1.5)
    heard = [handler.heard.get(timeout=60) for _ in range(5)]
    assert heard == [("consumed", 3), ("cancelled", "k"), ("stopped", "k", 2), ("ended", "tool_calls"), ("drain", 1.5)]
    sender.close()
    receiver.close()


@pytest.mark.parametrize("junk", [b"", b"consumed", b"consumed x", b"\xff\xfe", b"cancelled a b", b"explode k", b"x" * 5000])
def test_junk_is_ignored(junk: bytes) -> None:
    handler = Handler()
    receiver = RelayReceiver(handler)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as raw:
        raw.sendto(junk, receiver.path)
    RelaySender(receiver.path).cancelled("after")
    assert handler.heard.get(timeout=60) == ("cancelled", "after")
    receiver.close()


def test_only_the_owner_may_write_and_nothing_is_left() -> None:
    receiver = RelayReceiver(Handler())
    folder = Path(receiver.path).parent
    assert stat.S_IMODE(os.stat(receiver.path).st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    receiver.close()
    assert not folder.exists()
    assert not receiver._thread.is_alive()


def test_a_given_folder_is_used_and_a_stale_socket_replaced(tmp_path: Path) -> None:
    first = RelayReceiver(Handler(), str(tmp_path))
    first._socket.close()  # as a killed engine leaves it: the file stays
    handler = Handler()
    second = RelayReceiver(handler, str(tmp_path))
    RelaySender(second.path).cancelled("k")
    assert handler.heard.get(timeout=60) == ("cancelled", "k")
    second.close()
    assert tmp_path.exists() and not list(tmp_path.iterdir())


def test_a_sender_without_a_receiver_does_not_raise(tmp_path: Path) -> None:
    sender = RelaySender(str(tmp_path / "nobody.sock"))
    sender.consumed(1)
    sender.close()
    sender.cancelled("k")


def test_a_folder_that_was_taken_away_ends_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    receiver = RelayReceiver(Handler(), str(folder))
    os.unlink(receiver.path)
    folder.rmdir()
    folder.touch()
    receiver.restore()
    assert receiver.is_alive
    folder.unlink()
    receiver.close()


def test_a_socket_whose_file_was_taken_away_is_made_anew(tmp_path: Path) -> None:
    handler = Handler()
    receiver, sender = RelayReceiver(handler, str(tmp_path)), RelaySender(str(tmp_path / "relay.sock"))
    receiver.restore()
    sender.cancelled("before")
    assert handler.heard.get(timeout=60) == ("cancelled", "before")
    for number in range(3):
        os.unlink(receiver.path)
        sender.cancelled("lost")
        receiver.restore()
        assert stat.S_IMODE(os.stat(receiver.path).st_mode) == 0o600
        sender.consumed(number)
        assert handler.heard.get(timeout=60) == ("consumed", number)
    assert receiver.is_alive
    receiver.close()
    assert not receiver.is_alive and not list(tmp_path.iterdir())
    receiver.restore()
    assert not list(tmp_path.iterdir()), "closed for good"
