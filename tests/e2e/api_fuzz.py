"""Asks a running front end what its OpenAPI document allows and what it forbids (schemathesis), and wants no 500 and no broken promise.

    python -m tests.e2e.api_fuzz --url http://127.0.0.1:8180 [--examples 1000] [--seed 1] [--api-key KEY]

`--examples` per path and method. What a request may say is told by the document, but for one thing: it has no more than a few tokens to
generate, so that the time goes into questions.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import schemathesis

ROOT = Path(__file__).resolve().parents[2]
MAX_TOKENS = 4
MAX_CONTEXT = 131_072

# Whether a prompt fits, its ids are in the vocabulary or two fields may stand together is no matter of types: 400 is a proper answer.
NOT_OURS = ("positive_data_acceptance",)


@schemathesis.hook
def before_call(_context: Any, case: Any, _kwargs: Any) -> None:
    """Called by schemathesis, which loads this module as its hooks, before each request."""
    body = case.body
    if not isinstance(body, dict):
        return
    given = [name for name in ("max_tokens", "max_completion_tokens") if body.get(name) not in (None, 0, "0")]
    if not given:
        body["max_tokens"] = MAX_TOKENS
    for name in given:
        if str(body[name]).isdecimal() and int(body[name]) <= MAX_CONTEXT:
            body[name] = min(int(body[name]), MAX_TOKENS)


def fuzz(
    url: str, *, examples: int, seed: int, phases: str = "coverage,fuzzing", api_key: str | None = None, more: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """One run of schemathesis over every path, the same for the same seed. Its status is 0 if it found nothing.

    `phases`: coverage asks every boundary of every field, some 1,700 questions; fuzzing draws `examples`. `more`: flags of its own.
    """
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", "--no-color"]
    command += ["--phases", phases, "--max-examples", str(examples), "--seed", str(seed), "--generation-database", "none"]
    command += ["--exclude-checks", ",".join(NOT_OURS), "--request-timeout", "60", "--continue-on-failure", "--warnings", "off"]
    command += ["-H", f"Authorization: Bearer {api_key}"] if api_key else []
    command += more
    environment = os.environ | {"SCHEMATHESIS_HOOKS": "tests.e2e.api_fuzz", "PYTHONPATH": str(ROOT), "NO_PROXY": "*"}
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.api_fuzz")
    parser.add_argument("--url", required=True, help="the front end, without /v1")
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--api-key")
    given = parser.parse_args()
    ended = fuzz(given.url, examples=given.examples, seed=given.seed, api_key=given.api_key)
    print(ended.stdout, ended.stderr, sep="\n")
    return ended.returncode


if __name__ == "__main__":
    sys.exit(main())
