"""Marks every test of this folder `gpu`, and skips them all where there is no GPU: compiled kernels at the sizes that are served."""

import os

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    for item in items:
        if "tests/gpu/" in item.path.as_posix():
            item.add_marker(pytest.mark.gpu)
            if interpreted:
                item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))
