"""What `serve` does without `--model`: the demo model that the package brings along; reads no flag but its own two."""

from __future__ import annotations

import argparse

from ernie_demo_model import FOLDER

_LIMITS = {"image": 4, "video": 1}
"""Of one prompt: the demo model tells pictures apart, which FastDeploy's default of one would not let it show."""


def choose(args: argparse.Namespace) -> list[str]:
    """Fill in `args.model`, and the limit that goes with it, where no model was given. Returns what the user is to be told."""
    if args.model is not None:
        return []
    args.model = str(FOLDER)
    if args.limit_mm_per_prompt is None:
        args.limit_mm_per_prompt = dict(_LIMITS)
    return ["No --model given: serving the demo model, which is tiny. Another one: --model DIR."]
