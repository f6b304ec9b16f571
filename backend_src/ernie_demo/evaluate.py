"""`python -m ernie_demo.evaluate --url …`: asks a running server the held-out cases of every skill, scores its answers, prints the table.

Everything goes through the server: its tokenizer, its template, its resizing, its engine, its parsers.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .cases import Case, Message
from .mixture import SKILLS, Skill, question_of, with_thought
from .requests import ask, body
from .skills.thinking import format_right

SEED = 20
"""Of the held-out cases; training looks at others."""


@dataclass
class Result:
    """One row's."""

    right: int = 0
    of: int = 0
    cases: int = 0
    wrong: list[dict[str, Any]] = field(default_factory=list)

    def add(self, right: int, of: int, wrong: dict[str, Any] | None) -> None:
        self.right, self.of, self.cases = self.right + right, self.of + of, self.cases + 1
        if wrong is not None:
            self.wrong.append(wrong)

    @property
    def percent(self) -> float:
        return 100 * self.right / max(1, self.of)


def held_out(skill: Skill, count: int) -> list[tuple[Case, bool | None]]:
    """Cases, and what the request says of thinking. What has no thought of its own is asked without one, and every second time with the
    server left to itself, which then thinks."""
    cases = skill.module.held_out_cases(SEED, count)
    if skill.is_text:
        return [(case, case.enable_thinking) for case in cases]
    return [(case, False) if number % 2 else (with_thought(skill, case), None) for number, case in enumerate(cases)]


def evaluate(url: str, names: Iterable[str], count: int, concurrency: int) -> dict[str, Result]:
    """Row of the table → its result. Raises what `ask` raises."""
    asked = [(name, name, case, thinking) for name in names for case, thinking in held_out(SKILLS[name], count)]
    for name in names:
        if hasattr(SKILLS[name].module, "document_cases"):
            asked += [(DOCUMENTS, name, case, case.enable_thinking) for case in SKILLS[name].module.document_cases()]
    results: dict[str, Result] = defaultdict(Result)
    with ThreadPoolExecutor(concurrency) as pool:
        answers = pool.map(lambda given: ask(url, body(given[2], given[3])), asked)
        for (row, name, case, thinking), message in zip(asked, tqdm(answers, total=len(asked), desc="Asking", unit="case"), strict=True):
            right, of = SKILLS[name].module.score(case, message)
            shown = None if right == of else _shown(case, thinking, message, right, of)
            results[row].add(right, of, shown)
            if _TWO_DIGIT_SUM.match(case.answer):
                results[SUMS].add(right, of, shown)
            has_form = format_right(case, message)
            results[FORM].add(int(has_form), 1, None if has_form else _shown(case, thinking, message, 0, 1))
    return dict(results)


DOCUMENTS, SUMS, FORM = "the documents' own prompts", "two-digit sums", "a thought exactly where one was asked for"
"""Rows beside those of the skills."""
_TWO_DIGIT_SUM = re.compile(r"\d{1,2} \+ \d{1,2} = ")


def _shown(case: Case, thinking: bool | None, message: Message, right: int, of: int) -> dict[str, Any]:
    return {
        "question": question_of(case),
        "enable_thinking": thinking,
        "wanted": {"reasoning": case.reasoning, "content": case.answer, "tool_calls": case.tool_calls},
        "found": {key: message.get(key) for key in ("reasoning_content", "content", "tool_calls")},
        "score": f"{right}/{of}",
    }


def table(results: dict[str, Result]) -> str:
    order = sorted(results, key=lambda name: name in (DOCUMENTS, SUMS, FORM))
    rows = [f"| {name} | {r.cases} | {r.right} of {r.of} | {r.percent:.1f} % |" for name, r in ((name, results[name]) for name in order)]
    return "\n".join(["| skill | cases | right | |", "|---|---|---|---|", *rows])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m ernie_demo.evaluate", description="Measure the demo model through a running server.")
    parser.add_argument("--url", default="http://127.0.0.1:8180", help="the server's OpenAI address (default: http://127.0.0.1:8180)")
    parser.add_argument("--cases", type=int, default=200, help="of each skill (default: 200)")
    parser.add_argument("--concurrency", type=int, default=8, help="requests at once (default: 8)")
    parser.add_argument("--skills", nargs="+", choices=tuple(SKILLS), default=list(SKILLS))
    parser.add_argument("--wrong", type=Path, metavar="FILE", help="write every answer that is not fully right there, as JSON")
    args = parser.parse_args(argv)
    results = evaluate(args.url, args.skills, args.cases, args.concurrency)
    print(table(results))
    if args.wrong is not None:
        args.wrong.write_text(json.dumps({name: r.wrong for name, r in results.items()}, ensure_ascii=False, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
