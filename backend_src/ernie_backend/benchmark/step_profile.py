"""Where the GPU's time of a decode step goes, kernel by kernel; runs no engine of its own.

Kernels overlap (each is launched while the one before still runs), so that the sum of their durations exceeds the step. What counts is by
how much each kernel moves the end of the work: those times add up to the step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeAlias

from ernie_kernels import xp

from ..config import ModelConfig
from .roofline import distinct_experts

Observe: TypeAlias = Callable[[Callable[[str, Sequence[Any]], None]], AbstractContextManager[None]]


@dataclass(frozen=True)
class ProfileRow:
    """All launches of a step that have a name and sizes in common."""

    name: str
    launches: int
    us: float
    """Of the step, all launches together."""
    gb_per_s: float
    """Bytes of the kernel's tensors (of expert weights and caches: what is expected to be read) over that time."""
    share: float


def profile_step(
    config: ModelConfig, batch: int, context: int, observe: Observe, launch_once: Callable[[], None], steps: Callable[[], object]
) -> tuple[ProfileRow, ...]:
    """`launch_once` launches a step's kernels one by one under `observe`; `steps` runs some steps as they are served. The longest first."""
    launched: list[tuple[str, str, float]] = []

    def note(name: str, arguments: Sequence[Any]) -> None:
        tensors = {t.data_ptr(): t for t in arguments if hasattr(t, "data_ptr") and hasattr(t, "shape")}
        sizes = [_bytes(config, batch, context, tensor) for tensor in tensors.values()]
        weight = max(tensors.values(), key=lambda t: math.prod(t.shape))
        launched.append((name, f"{name} {'×'.join(map(str, weight.shape))}", sum(sizes)))

    with observe(note):
        launch_once()
    names = {name for name, _, _ in launched}
    events = [event for event in xp.profile_kernels(steps) if event[0] in names]
    assert events and len(events) % len(launched) == 0, "steps launch the same kernels in the same order"
    count = len(events) // len(launched)
    times: dict[str, list[float]] = {}
    for index, (_, start, end) in enumerate(events):
        before = events[index - 1][2] if index % len(launched) else start
        times.setdefault(launched[index % len(launched)][1], []).append(end - before)
    total = sum(map(sum, times.values()))
    num_bytes = {label: sum(size for _, other, size in launched if other == label) for _, label, _ in launched}
    rows = [
        ProfileRow(label, len(us) // count, sum(us) / count, num_bytes[label] * count / max(sum(us), 1e-3) / 1e3, sum(us) / total)
        for label, us in times.items()
    ]
    return tuple(sorted(rows, key=lambda row: -row.us))


def _bytes(config: ModelConfig, batch: int, context: int, tensor: Any) -> float:
    shape = tuple(tensor.shape)
    size = math.prod(shape) * tensor.element_size()
    if len(shape) == 4 and shape[2:] == (config.num_kv_heads, config.head_dim):
        return batch * context * math.prod(shape[2:]) * tensor.element_size()
    if config.num_experts and len(shape) == 3 and shape[0] >= config.num_experts:
        shared = shape[0] - config.num_experts
        return size * (distinct_experts(config, batch) + shared) / shape[0]
    return size
