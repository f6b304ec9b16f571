"""Triton's entry to the preprocess step; what it does stands in `ernie_backend.triton_adapter.preprocess_model`."""

import triton_python_backend_utils as pb_utils

from ernie_backend.triton_adapter.preprocess_model import PreprocessModel


class TritonPythonModel(PreprocessModel):
    """The name that Triton looks for."""

    def __init__(self) -> None:
        super().__init__(pb_utils)
