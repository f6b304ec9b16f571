"""Triton's Prometheus text as this front end passes it on: the engine's histograms get their type back. Knows no metric by name.

Triton's own histograms cost a call per value, so that the engine publishes counters `NAME_bucket`, `NAME_sum` and `NAME_count`
(`ernie_backend/metrics.py`). A Prometheus server takes them as they are; stricter readers want `# TYPE NAME histogram`.
"""

from __future__ import annotations

import re

_SAMPLE_OF_A_HISTOGRAM = re.compile(r"^((?:ernie_|fastdeploy:)\w+)_(bucket|sum|count)([ {].*)$")
_COMMENT = re.compile(r"^# (HELP|TYPE) ((?:ernie_|fastdeploy:)\w+)_(bucket|sum|count) (.*)$")
_LE = re.compile(r'le="([^"]+)"')


def with_histograms(text: str) -> str:
    """The same samples; those of a histogram stand together, in the order of their bounds, under one HELP and one TYPE."""
    lines = text.splitlines()
    names = {match[1] for line in lines if (match := _SAMPLE_OF_A_HISTOGRAM.match(line)) and match[2] == "bucket"}
    helps: dict[str, str] = {}
    samples: dict[str, dict[str, list[str]]] = {}
    kept = []
    for line in lines:
        match = _COMMENT.match(line)
        if match and match[2] in names:
            if match[1] == "HELP":
                helps[match[2]] = match[4]
            continue
        match = _SAMPLE_OF_A_HISTOGRAM.match(line)
        if match and match[1] in names:
            samples.setdefault(match[1], {"bucket": [], "sum": [], "count": []})[match[2]].append(line)
        else:
            kept.append(line)
    for name, parts in samples.items():
        kept += [f"# HELP {name} {helps.get(name, '')}", f"# TYPE {name} histogram"]
        kept += [*sorted(parts["bucket"], key=_bound), *parts["sum"], *parts["count"]]
    return "\n".join(kept) + "\n"


def _bound(line: str) -> float:
    match = _LE.search(line)
    return float(match[1]) if match else float("inf")
