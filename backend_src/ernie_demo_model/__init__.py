"""The demo model's files, for whoever serves without a model of their own; needs nothing of what made it."""

from pathlib import Path

FOLDER = Path(__file__).parent / "ernie-demo"
