"""schemathesis over the OpenAPI document of a real server, the short version of `python -m tests.e2e.api_fuzz`."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from ernie_backend.cli.background import RunningServer
from tests.e2e.api_fuzz import fuzz
from tests.e2e.observe import wait_until_idle

GENERATING = "/v1/(chat/)?completions"
EXAMPLES = 25


@pytest.mark.parametrize(
    ("phases", "which"),
    [("coverage", ("--exclude-path-regex", GENERATING)), ("fuzzing", ("--include-path-regex", GENERATING))],
    ids=["every boundary of the small paths", "random questions to those that answer"],
)
def test_no_500_and_no_broken_promise(server: RunningServer, phases: str, which: Sequence[str]) -> None:
    ended = fuzz(server.openai_url, examples=EXAMPLES, seed=1, phases=phases, more=which)
    assert ended.returncode == 0, ended.stdout[-8000:] + ended.stderr[-2000:]
    assert "No issues found" in ended.stdout
    wait_until_idle(server)
