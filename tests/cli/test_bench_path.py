"""The clock, its log, and what is wrong with a command line."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import pytest

from ernie_backend.benchmark.clock import ClockRunner, clock_core, read_log
from ernie_backend.benchmark.load_client import Answer, HttpClient
from ernie_backend.benchmark.path_bench import _lateness
from ernie_backend.cli.__main__ import main
from ernie_backend.config import EngineConfig
from ernie_backend.core.outputs import NewSequence, ScheduledSequence, SchedulerOutput
from ernie_backend.errors import ConfigError, EngineError
from ernie_backend.protocol import SamplingParams


def test_steps_take_their_time_and_tokens_come_from_the_table(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("ab") as file:
        runner = ClockRunner([7, 8], 0.4, file)
        new = NewSequence(3, (1, 2, 3, 4, 5), SamplingParams(max_tokens=9), None)
        first = SchedulerOutput((new,), (ScheduledSequence(3, 0, 5, (0,), True),), ())
        later = SchedulerOutput((), (ScheduledSequence(3, 5, 1, (0,), True),), ())
        begin = time.monotonic()
        launched = [runner.launch(first), runner.launch(later), runner.launch(later)]
        assert time.monotonic() - begin < 0.4, "launching does not wait"
        assert [runner.collect(each).sampled for each in launched] == [{3: 7}, {3: 8}, {3: 7}]
        assert time.monotonic() - begin >= 1.2
        runner.collect(runner.launch(SchedulerOutput((), (), (3,))))
    (due,) = read_log(log).values()
    assert list(read_log(log)) == [(1, 2, 3, 4)]
    assert [round(b - a, 6) for a, b in itertools.pairwise(due)] == [0.4, 0.4]


def test_a_clock_needs_to_be_told_its_blocks(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="num_blocks"):
        clock_core(EngineConfig("m", max_model_len=8), None, token_ids=[1], step_seconds=1, log_path=str(tmp_path / "log"))  # type: ignore[arg-type]


def test_lateness_is_counted_token_by_token() -> None:
    log = {(1, 2, 3, 4): [10.0, 11.0, 12.0]}
    answer = Answer(9.0, [11.5, 12.25], [2, 1], prompt=[1, 2, 3, 4, 5])
    assert _lateness([answer, Answer(9.0, error="failed")], log) == [(1500.0, 1.0), (500.0, 1.0), (250.0, 1.0)]  # type: ignore[arg-type]
    with pytest.raises(EngineError, match="one machine"):
        _lateness([Answer(9.0, [11.5], [1], prompt=[9, 9, 9, 9])], log)  # type: ignore[arg-type]


async def test_text_tells_how_many_tokens_came() -> None:
    client = HttpClient("127.0.0.1:1", ("The", " end", "."))
    assert [client._tokens_in(n) for n in (0, 3, 7, 8, 11, 15, 16)] == [0, 1, 2, 3, 4, 5, 6]
    await client.close()


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--modes", "fast"], "--modes"),
        (["--protocols", "smtp"], "--protocols"),
        (["--streams", "0"], "--streams"),
        (["--tokens", "0"], "--tokens"),
        (["--step-ms", "0"], "--step-ms"),
    ],
)
def test_a_wrong_flag_is_named(flags: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "path", *flags]) == 2
    assert named in capsys.readouterr().err
