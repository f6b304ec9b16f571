"""Every launcher at sizes that are served, called with tensors that somebody else makes; knows neither compiler nor framework.

One line for a launcher and a shape: test_compile.py compiles its kernels for sm_80 and sm_90, test_fake_cuda.py launches them with Paddle
tensors. `make(dtype, *shape)` gives an uninitialised tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ernie_kernels.triton import norm

Make = Callable[..., Any]


@dataclass(frozen=True)
class Case:
    launches: int  # kernels that one call starts
    call: Callable[[Make], None]


CASES: dict[str, Case] = {
    "rms_norm 0.3B": Case(1, lambda t: norm.rms_norm(t("bfloat16", 7, 1024), t("bfloat16", 1024), 1e-5, t("bfloat16", 7, 1024))),
    "add_rms_norm 21B": Case(
        1,
        lambda t: norm.add_rms_norm(t("bfloat16", 256, 2560), t("float32", 256, 2560), t("float32", 2560), 1e-5, t("bfloat16", 256, 2560)),
    ),
    "embedding 21B": Case(1, lambda t: norm.embedding(t("int32", 33), t("bfloat16", 103424, 2560), t("bfloat16", 33, 2560))),
}
