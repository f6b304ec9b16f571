"""Chooses, before any test imports a kernel, how Triton-language kernels run: interpreted wherever there is no NVIDIA GPU."""

import os

if not os.path.exists("/dev/nvidia0"):
    os.environ["TRITON_INTERPRET"] = "1"
