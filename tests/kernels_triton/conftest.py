"""Interpreted and compiled-only tests: for machines without a GPU. On a GPU host tests/gpu takes their place."""

import os

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]
