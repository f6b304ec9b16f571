"""A runner that is a clock: every step takes the same time, every token comes from a table. It measures the path around a model, not one.

Scheduler, engine thread and everything behind them are the real ones. What step a token belonged to, and when that step was due, goes into
a log that whoever measures reads afterwards.
"""

from __future__ import annotations

import struct
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from ..config import EngineConfig, ModelConfig
from ..core.engine_core import EngineCore
from ..core.outputs import ModelRunnerOutput, SchedulerOutput
from ..core.scheduler import Scheduler
from ..errors import ConfigError

PROMPT_KEY_IDS = 4
"""A prompt is known by its first ids, which whoever measures draws at random."""
_HEADER = struct.Struct(f"<{PROMPT_KEY_IDS + 1}i")


@dataclass
class _Answer:
    key: tuple[int, ...]
    due: array[float] = field(default_factory=lambda: array("d"))


class ClockRunner:
    """Like a GPU, it computes one step at a time and lets the next one be scheduled meanwhile."""

    steps_ahead = 1

    def __init__(self, token_ids: Sequence[int], step_seconds: float, log: BinaryIO) -> None:
        self._token_ids = tuple(token_ids)
        self._step_seconds = step_seconds
        self._log = log
        self._free_at = 0.0
        self._answers: dict[int, _Answer] = {}

    def launch(self, output: SchedulerOutput) -> tuple[SchedulerOutput, float]:
        """The step and when it is due."""
        for sequence_id in output.finished_sequence_ids:
            answer = self._answers.pop(sequence_id)
            log_answer(self._log, answer.key, answer.due)
        for new in output.new_sequences:
            self._answers[new.sequence_id] = _Answer(new.prompt_token_ids[:PROMPT_KEY_IDS])
        if output.scheduled:
            self._free_at = max(time.monotonic(), self._free_at) + self._step_seconds
        return output, self._free_at

    def collect(self, launched: tuple[SchedulerOutput, float]) -> ModelRunnerOutput:
        output, due = launched
        result = ModelRunnerOutput({}, {})
        if output.scheduled:
            time.sleep(max(0.0, due - time.monotonic()))
        table, size = self._token_ids, len(self._token_ids)
        for granted in output.scheduled:
            answer = self._answers.get(granted.sequence_id)  # None: it has ended since
            if granted.samples and answer is not None:
                result.sampled[granted.sequence_id] = table[len(answer.due) % size]
                answer.due.append(due)
        return result

    def recover(self) -> None:
        """A clock never fails."""


def log_answer(log: BinaryIO, key: tuple[int, ...], due: array[float]) -> None:
    """Append an answer that has ended; one whose prompt is too short to be known again is left out."""
    if len(key) == PROMPT_KEY_IDS:
        log.write(_HEADER.pack(*key, len(due)) + due.tobytes())
        log.flush()


def clock_core(
    config: EngineConfig, model_config: ModelConfig, *, token_ids: Sequence[int], step_seconds: float, log_path: str
) -> EngineCore:
    """In place of `build.build_core`: the same scheduler around a clock. `num_blocks` must be configured: a clock has no memory to size."""
    if config.num_blocks is None:
        raise ConfigError("num_blocks must be given: a clock has no memory that would size the cache.", param="num_blocks")
    return EngineCore(Scheduler(config, config.num_blocks), ClockRunner(token_ids, step_seconds, open(log_path, "ab")))


def read_log(path: str | Path) -> dict[tuple[int, ...], array[float]]:
    """First ids of a prompt → when the step of each of its answer's tokens was due, in seconds of the machine's monotonic clock."""
    data = Path(path).read_bytes()
    found: dict[tuple[int, ...], array[float]] = {}
    position = 0
    while position < len(data):
        *key, count = _HEADER.unpack_from(data, position)
        position += _HEADER.size
        found[tuple(key)] = due = array("d")
        due.frombytes(data[position : position + 8 * count])
        position += 8 * count
    return found
