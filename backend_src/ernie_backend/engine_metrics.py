"""The engine's metrics by name: FastDeploy's where it has one, `ernie_` where it has none. Knows what is counted, not who publishes it.

What each name means to a user stands in docs/METRICS.md; a test holds the two against each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .config import EngineConfig
from .core.scheduler import SchedulerStats
from .metrics import Histogram, Metric, histogram_metrics
from .protocol import FinishReason
from .timeline import Timeline

REJECTION_STATUSES = (400, 401, 404, 408, 413, 429, 500, 503)
REJECTED = ("ernie_requests_rejected_total", "Requests refused before they ran, by HTTP status")
"""Name and help; preprocess counts its refusals under the same name."""

_SUCCESSES = (FinishReason.STOP, FinishReason.LENGTH, FinishReason.TOOL_CALLS)


def engine_metrics(read: Callable[[], SchedulerStats], timeline: Timeline, config: EngineConfig) -> list[Metric]:
    """Every series of the engine. `read` gives the scheduler's counts of now."""
    return [*_own(read), *_rejected(timeline.rejected_total), *_fastdeploy(read, timeline, config), *_histograms(timeline)]


def _own(read: Callable[[], SchedulerStats]) -> Iterator[Metric]:
    yield Metric("ernie_sequences_running", "Sequences in the running batch", "gauge", lambda: read().num_running)
    yield Metric("ernie_sequences_waiting", "Sequences in the queue", "gauge", lambda: read().num_waiting)
    yield Metric("ernie_kv_blocks_used", "KV-cache blocks held by sequences", "gauge", lambda: read().num_blocks_used)
    yield Metric("ernie_kv_blocks", "KV-cache blocks in all", "gauge", lambda: read().num_blocks)
    yield Metric("ernie_prompt_tokens_total", "Prompt tokens of accepted requests", "counter", lambda: read().prompt_tokens_total)
    yield Metric(
        "ernie_cached_tokens_total", "Prompt tokens that the prefix cache already held", "counter", lambda: read().cached_tokens_total
    )
    yield Metric("ernie_generation_tokens_total", "Generated tokens", "counter", lambda: read().generation_tokens_total)
    yield Metric("ernie_preemptions_total", "Times a running sequence gave its blocks back", "counter", lambda: read().preemptions_total)
    for reason in FinishReason:
        name, labels = "ernie_sequences_finished_total", {"reason": reason.value}
        yield Metric(name, "Ended sequences by finish reason", "counter", _finished(read, reason), labels)


def _finished(read: Callable[[], SchedulerStats], *reasons: FinishReason) -> Callable[[], float]:
    return lambda: sum(read().finished_total[reason.value] for reason in reasons)


def _rejected(by_status: dict[int, int]) -> Iterator[Metric]:
    for status in REJECTION_STATUSES:
        yield Metric(*REJECTED, "counter", lambda status=status: by_status.get(status, 0), {"status": str(status)})  # type: ignore[misc]


def _fastdeploy(read: Callable[[], SchedulerStats], timeline: Timeline, config: EngineConfig) -> Iterator[Metric]:
    """Its counters and gauges. A FastDeploy request is what is called a sequence here: one of the n answers."""
    slots = config.max_num_seqs

    def used() -> float:
        return read().num_blocks_used / read().num_blocks

    def hit_rate() -> float:
        return 100 * read().cached_tokens_total / max(1, read().prompt_tokens_total)

    counters: dict[str, tuple[str, Callable[[], float]]] = {
        "requests_number_total": ("Answers asked for", lambda: timeline.choices_total),
        "request_success_total": ("Answers that ended as they should", _finished(read, *_SUCCESSES)),
        "request_preempted_total": ("Preemptions", lambda: read().preemptions_total),
        "prompt_tokens_total": ("Prompt tokens of accepted requests", lambda: read().prompt_tokens_total),
        "generation_tokens_total": ("Generated tokens", lambda: read().generation_tokens_total),
        "prefix_cache_token_num_total": ("Prompt tokens found in the prefix cache", lambda: read().cached_tokens_total),
        "prefix_gpu_cache_token_num_total": ("Prompt tokens found in the prefix cache", lambda: read().cached_tokens_total),
    }
    gauges: dict[str, tuple[str, Callable[[], float]]] = {
        "num_requests_running": ("Sequences in the running batch", lambda: read().num_running),
        "num_requests_waiting": ("Sequences in the queue", lambda: read().num_waiting),
        "batch_size": ("Sequences in the running batch", lambda: read().num_running),
        "max_batch_size": ("Most sequences in one step", lambda: slots),
        "available_batch_size": ("Sequences that could join the batch", lambda: slots - read().num_running),
        "max_gpu_block_num": ("KV-cache blocks in all", lambda: read().num_blocks),
        "available_gpu_block_num": ("KV-cache blocks not held", lambda: read().num_blocks - read().num_blocks_used),
        "available_gpu_resource": ("Share of KV-cache blocks not held", lambda: 1 - used()),
        "gpu_cache_usage_perc": ("Share of KV-cache blocks held, 1 is all", used),
        "hit_token_rate": ("Prompt tokens found in the prefix cache, percent", hit_rate),
        "gpu_hit_token_rate": ("Prompt tokens found in the prefix cache, percent", hit_rate),
    }
    for kind, table in (("counter", counters), ("gauge", gauges)):
        for name, (text, value) in table.items():
            yield Metric(f"fastdeploy:{name}", text, kind, value)


def _histograms(timeline: Timeline) -> Iterator[Metric]:
    table: dict[str, tuple[str, Histogram]] = {
        "fastdeploy:time_to_first_token_seconds": ("From arrival to the first token", timeline.time_to_first_token),
        "fastdeploy:time_per_output_token_seconds": ("Between two tokens of an answer", timeline.time_between_tokens),
        "fastdeploy:e2e_request_latency_seconds": ("From arrival to the last token", timeline.end_to_end),
        "fastdeploy:request_inference_time_seconds": ("From the first step to the last token", timeline.inference),
        "fastdeploy:request_queue_time_seconds": ("From the engine's inbox to the first step", timeline.queue),
        "fastdeploy:request_prefill_time_seconds": ("From the first step to the first token", timeline.prefill),
        "fastdeploy:request_decode_time_seconds": ("From the first token to the last", timeline.decode),
        "fastdeploy:request_prompt_tokens": ("Prompt tokens of an answer", timeline.prompt_tokens),
        "fastdeploy:request_generation_tokens": ("Tokens of an answer", timeline.generation_tokens),
        "fastdeploy:request_params_max_tokens": ("Most tokens that an answer was allowed", timeline.max_tokens),
        "ernie_step_sequences": ("Sequences that share a step", timeline.batch_size),
    }
    for name, (text, histogram) in table.items():
        yield from histogram_metrics(name, text, histogram)
