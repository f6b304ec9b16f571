"""One copy for several arrays, and that no page-locked copy is written while the GPU may still read it."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest

from ernie_backend.execution.fixed_memory import FixedMemory
from ernie_kernels import xp

SHAPES = {"ids": ("int64", (2,)), "floats": ("float32", (3,)), "table": ("int32", (4, 5))}


class Event:
    """Notes what is asked of it."""

    log: ClassVar[list[tuple[str, int]]] = []
    made = 0

    def __init__(self) -> None:
        self.number = Event.made
        Event.made += 1

    def record(self) -> None:
        Event.log.append(("record", self.number))

    def synchronize(self) -> None:
        Event.log.append(("synchronize", self.number))


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> FixedMemory:
    Event.log, Event.made = [], 0
    monkeypatch.setattr(xp, "event", Event)
    monkeypatch.setattr(xp, "pinned", xp.zeros)
    return FixedMemory(SHAPES)


def test_arrays_arrive_and_rows_behind_the_asked_ones_do_not(memory: FixedMemory) -> None:
    memory.host["floats"][:] = (0.5, -1, 2)
    memory.host["ids"][:] = (-(2**40), 7)
    memory.host["table"][:] = np.arange(20).reshape(4, 5)
    memory.send(2)
    found = {name: xp.to_numpy(tensor) for name, tensor in memory.device.items()}
    assert found["floats"].tolist() == [0.5, -1, 2] and found["ids"].tolist() == [-(2**40), 7]
    assert found["table"].tolist() == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [0] * 5, [0] * 5]


def test_a_copy_that_is_under_way_is_not_overwritten(memory: FixedMemory) -> None:
    memory.send(4)
    del Event.log[:]
    memory.send(4)
    memory.send(4)
    memory.send(4)
    (_, second), (_, third) = waits = [entry for entry in Event.log if entry[0] == "synchronize"][:2]
    assert second != third, "two may be under way"
    assert Event.log == [entry for wait in (*waits, waits[0]) for entry in (wait, ("record", wait[1]))], (
        "each waits for the one before the last"
    )
