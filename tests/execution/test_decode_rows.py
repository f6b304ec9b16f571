"""The rows of decode steps, as the device sees them, while sequences come, grow and go."""

from __future__ import annotations

import random
from unittest.mock import MagicMock

import numpy as np
import pytest

from ernie_backend.core.outputs import NewSequence
from ernie_backend.execution.decode_rows import EDITS_PER_ROW, DecodeRows
from ernie_backend.execution.sequence_state import SequenceState
from ernie_backend.protocol import SamplingParams
from ernie_kernels import xp
from ernie_kernels.triton.sampling import FLOAT_COLUMNS, INTEGER_COLUMNS

MAX_ROWS, MAX_BLOCKS, BLOCK_SIZE = 8, 6, 16


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> DecodeRows:
    monkeypatch.setattr(xp, "pinned", xp.zeros)
    monkeypatch.setattr(xp, "event", MagicMock)
    return DecodeRows(MAX_ROWS, MAX_BLOCKS, BLOCK_SIZE, xp.zeros([MAX_ROWS, 4], "int32"))


def state(number: int, length: int, **sampling: object) -> SequenceState:
    params = SamplingParams(max_tokens=99, temperature=0.1 * number, top_k=number, **sampling)  # type: ignore[arg-type]
    return SequenceState(NewSequence(number, tuple(range(length)), params, seed=1000 + number), 1000 + number, vocab_size=100)


def fill(rows: DecodeRows, scheduled: list[SequenceState], tables: list[tuple[int, ...]], num_rows: int) -> bool:
    starts = [len(state.token_ids) - 1 for state in scheduled]
    return rows.fill(rows.seat(list(scheduled)), starts, tables, (np.full(len(scheduled), -1), np.arange(len(scheduled))), num_rows)


def check(rows: DecodeRows, scheduled: list[SequenceState], tables: list[tuple[int, ...]], num_rows: int) -> None:
    """Every sequence has one row with all that is its own; the rows of padding are greedy and read nothing."""
    device = {name: xp.to_numpy(tensor) for name, tensor in rows.device.items()}
    seating = rows.seat(list(scheduled))
    assert sorted(seating.rows) == list(range(len(scheduled)))
    for row, sequence, table in zip(seating.rows, scheduled, tables, strict=True):
        length, sampling = len(sequence.token_ids), sequence.sampling
        assert seating.states[row] is sequence
        assert device["token_ids"][row] == sequence.token_ids[-1]
        assert (device["positions"][row], device["context_lens"][row]) == (length - 1, length)
        assert device["block_tables"][row, : len(table)].tolist() == list(table)
        if (length - 1) // BLOCK_SIZE < len(table):
            assert device["slot_mapping"][row] == table[(length - 1) // BLOCK_SIZE] * BLOCK_SIZE + (length - 1) % BLOCK_SIZE
        assert device["integers"][row].tolist() == [sampling.top_k, 1000 + sequence.sequence_id, sequence.num_output_tokens, -1, -1, row]
        assert np.array_equal(device["floats"][row], np.array([getattr(sampling, name) for name in FLOAT_COLUMNS], np.float32))
    for row in range(len(scheduled), num_rows):
        assert device["floats"][row, 0] == 0 and device["integers"][row, INTEGER_COLUMNS.index("slot")] == -1
        assert device["integers"][row, INTEGER_COLUMNS.index("mask")] == -1
        assert device["token_ids"][row] == device["positions"][row] == device["context_lens"][row] == 0
        assert device["slot_mapping"][row] == -1


@pytest.mark.parametrize("seed", range(20))
def test_random_walk(rows: DecodeRows, seed: int) -> None:
    rng = random.Random(seed)
    scheduled: list[SequenceState] = []
    tables: dict[SequenceState, tuple[int, ...]] = {}
    for number in range(60):
        before = {sequence: row for row, sequence in enumerate(rows.seat(list(scheduled)).states)}
        scheduled = [sequence for sequence in scheduled if rng.random() > 0.15]
        while len(scheduled) < MAX_ROWS and rng.random() < 0.4:
            scheduled.insert(rng.randrange(len(scheduled) + 1), state(1 + number % 7, rng.randrange(1, 9)))
        for sequence in scheduled:
            known = tables.get(sequence, ())
            if not known or (len(known) < MAX_BLOCKS and rng.random() < 0.3):
                tables[sequence] = (*known, rng.randrange(100))
            elif rng.random() < 0.1:  # preempted and back
                tables[sequence] = tuple(rng.randrange(100) for _ in range(rng.randrange(1, MAX_BLOCKS + 1)))
            sequence.token_ids.append(rng.randrange(100))
        num_rows = rng.randrange(max(1, len(scheduled)), MAX_ROWS + 1)
        held = [tables[sequence] for sequence in scheduled]
        assert fill(rows, scheduled, held, num_rows)
        check(rows, scheduled, held, num_rows)
        for row, sequence in enumerate(rows.seat(list(scheduled)).states):
            assert before.get(sequence, row) in (row, *range(len(scheduled), MAX_ROWS)), "who stays keeps the row, if the step has it"


def test_edits_that_do_not_fit_leave_the_next_step_right(rows: DecodeRows) -> None:
    greedy = state(0, 3)
    bias = tuple((token_id, 1.0) for token_id in range(EDITS_PER_ROW * MAX_ROWS + 1))
    biased = [state(number, 3, logit_bias=bias) for number in (1, 2)]
    assert not fill(rows, [*biased, greedy], [(1,), (2,), (3,)], 4)
    assert fill(rows, [greedy], [(3,)], 4)
    check(rows, [greedy], [(3,)], 4)
