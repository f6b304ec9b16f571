"""Triton's entry to the engine step; what it does stands in `ernie_backend.triton_adapter.engine`."""

import triton_python_backend_utils as pb_utils

from ernie_backend.triton_adapter.engine import EngineModel


class TritonPythonModel(EngineModel):
    """The name that Triton looks for."""

    def __init__(self) -> None:
        super().__init__(pb_utils)
