"""What the engine counts, as Prometheus names, kinds and readers; knows neither Triton nor who publishes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from .core.scheduler import SchedulerStats
from .protocol import FinishReason


@dataclass(frozen=True)
class Metric:
    """One time series. A counter's reader gives the total since the start."""

    name: str
    help: str
    kind: str
    """`counter` or `gauge`."""
    read: Callable[[SchedulerStats], float]
    labels: dict[str, str] = field(default_factory=dict)


def _finished(reason: str) -> Callable[[SchedulerStats], float]:
    return lambda stats: stats.finished_total[reason]


ENGINE_METRICS: tuple[Metric, ...] = (
    Metric("ernie_sequences_running", "Sequences in the running batch", "gauge", lambda s: s.num_running),
    Metric("ernie_sequences_waiting", "Sequences in the queue", "gauge", lambda s: s.num_waiting),
    Metric("ernie_kv_blocks_used", "KV-cache blocks held by sequences", "gauge", lambda s: s.num_blocks_used),
    Metric("ernie_kv_blocks", "KV-cache blocks in all", "gauge", lambda s: s.num_blocks),
    Metric("ernie_prompt_tokens_total", "Prompt tokens of accepted requests", "counter", lambda s: s.prompt_tokens_total),
    Metric("ernie_cached_tokens_total", "Prompt tokens that the prefix cache already held", "counter", lambda s: s.cached_tokens_total),
    Metric("ernie_generation_tokens_total", "Generated tokens", "counter", lambda s: s.generation_tokens_total),
    Metric("ernie_preemptions_total", "Times a running sequence gave its blocks back", "counter", lambda s: s.preemptions_total),
    *(
        Metric("ernie_sequences_finished_total", "Ended sequences by finish reason", "counter", _finished(r.value), {"reason": r.value})
        for r in FinishReason
    ),
)
