"""schemathesis over the OpenAPI document of a real server, the short version of `python -m tests.e2e.api_fuzz`."""

from __future__ import annotations

from ernie_backend.cli.background import RunningServer
from tests.e2e.api_fuzz import fuzz
from tests.e2e.observe import wait_until_idle

EXAMPLES = 25


def test_no_500_and_no_broken_promise(server: RunningServer) -> None:
    ended = fuzz(server.openai_url, examples=EXAMPLES, seed=1)
    assert ended.returncode == 0, ended.stdout[-8000:] + ended.stderr[-2000:]
    assert "No issues found" in ended.stdout and "/v1" not in ended.stderr
    wait_until_idle(server)
