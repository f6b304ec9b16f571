"""Triton's entry to the postprocess step; what it does stands in `ernie_backend.triton_adapter.postprocess_model`."""

import triton_python_backend_utils as pb_utils

from ernie_backend.triton_adapter.postprocess_model import PostprocessModel


class TritonPythonModel(PostprocessModel):
    """The name that Triton looks for."""

    def __init__(self) -> None:
        super().__init__(pb_utils)
