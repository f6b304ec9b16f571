"""A server whose engine's model is a clock (`bench path`): answers of known length and content at a known pace, on any machine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ernie_backend.benchmark.path_bench import Clock, clock_model, table_of, write_repository
from ernie_backend.cli.background import RunningServer
from ernie_backend.cli.commands import find_model_repository
from tests.e2e.server import running_server


@dataclass
class ClockServer:
    server: RunningServer
    token_ids: tuple[int, ...]
    """The answer to everything, over and over."""
    token_texts: tuple[str, ...]

    def text(self, tokens: int) -> str:
        """Of an answer of so many tokens."""
        rounds, rest = divmod(tokens, len(self.token_texts))
        return "".join(self.token_texts) * rounds + "".join(self.token_texts[:rest])


@contextlib.contextmanager
def clock_server(folder: Path, model: Path, step_seconds: float, **flags: object) -> Iterator[ClockServer]:
    """Serve it; `flags` as for `running_server`. `model`: any model folder, of which the tokenizer counts."""
    ids, texts = table_of(model)
    write_repository(folder, find_model_repository(None), clock_model(Clock(ids, step_seconds, str(folder / "clock.log"))))
    with running_server(model, model_repository=folder, num_gpu_blocks_override=4096, **flags) as server:
        yield ClockServer(server, ids, texts)
