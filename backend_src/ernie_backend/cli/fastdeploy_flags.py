"""FastDeploy's flags that `serve` does not act on: which come later and which have no meaning here, with the one line that says so.

Every flag of FastDeploy's command line is either in `flags.py` (it works) or in one of the two tables. A flag of a later feature passes
silently only with the value that means 'off', because launch lines spell defaults out.
"""

from __future__ import annotations

NOT_SUPPORTED_YET: dict[str, tuple[str, ...]] = {
    # several devices and machines
    "tensor-parallel-size": ("1",),
    "data-parallel-size": ("1",),
    "local-data-parallel-id": ("0",),
    "enable-expert-parallel": ("false",),
    "enable-eplb": ("false",),
    "eplb-config": (),
    "splitwise-role": ("mixed",),
    "innode-prefill-ports": (),
    "pd-comm-port": (),
    "rdma-comm-ports": (),
    "ips": (),
    "router": (),
    "scheduler-name": ("local",),
    "shutdown-comm-group-if-worker-idle": ("false",),
    # weights
    "quantization": ("none",),
    "enable-lora": ("false",),
    "dynamic-load-weight": ("false",),
    "load-strategy": ("normal",),
    "rsync-config": (),
    "model-config-name": ("config.json",),
    "tokenizer": (),
    "lm-head-fp32": ("false",),
    # cache
    "swap-space": ("0",),
    "kvcache-storage-backend": (),
    "write-policy": ("write_through",),
    # images and video
    "disable-chunked-mm-input": ("false",),
    "enable-mm-output": ("false",),
    # what comes out
    "tool-parser-plugin": (),
    "guided-decoding-disable-any-whitespace": ("false",),
    "logits-processors": (),
    "logprobs-mode": ("raw_logprobs",),
    "speculative-config": (),
    "enable-early-stop": ("false",),
    "early-stop-config": (),
    "enable-entropy": ("false",),
    "enable-keep-sampling-mask": ("false",),
    "routing-replay-config": (),
    "plas-attention-config": (),
    # other tasks and other ways to start
    "config": (),
    "runner": ("auto", "generate"),
    "convert": ("auto", "none"),
    "task": ("generate", "auto"),
    "model-impl": ("auto", "fastdeploy"),
    "override-pooler-config": (),
    "controller-port": ("-1",),
    "max-waiting-time": ("-1",),
    "timeout": ("0",),
}
"""Flag → the values that mean 'off'."""

_ONE_PROCESS = "the engine runs in one process and needs no inner ports"
_NO_PHASES = "the scheduler has no phases: the token budget of a step is --max-num-batched-tokens"
_ONE_DEVICE = "it concerns several devices, and the engine runs on one"
_SCHEDULER = """
    host port db password ttl topic max-size min-load-score load-shards-num sync-period expire-period release-load-expire-period
    reader-parallel writer-parallel reader-batch-size writer-batch-size
"""
_LOCAL_SCHEDULER = "it configures FastDeploy's scheduler on redis; the scheduler here is local"

WITHOUT_MEANING: dict[str, str] = {
    "enable-mm": "whether a model takes images stands in its folder",
    "engine-worker-queue-port": _ONE_PROCESS,
    "cache-queue-port": _ONE_PROCESS,
    "cache-transfer-protocol": _ONE_PROCESS,
    "load-choices": "both published weight layouts are recognised by themselves",
    "trust-remote-code": "no code of a model folder is ever run",
    "revision": "--model is a folder, nothing is downloaded",
    "tokenizer-base-url": "the tokenizer runs in the server",
    "use-cudagraph": "the engine decides about CUDA graphs by itself",
    "graph-optimization-config": "the engine decides about CUDA graphs by itself",
    "use-warmup": "the engine always warms up before it is ready",
    "enable-logprob": "log-probabilities are always available",
    "max-logprobs": "a request may always ask for up to 20",
    "guided-decoding-backend": "answers can always be made to follow a schema, an expression or a grammar; llguidance sees to it",
    "enable-output-caching": "prefix caching covers generated tokens as well",
    "kv-cache-ratio": _NO_PHASES,
    "max-num-partial-prefills": _NO_PHASES,
    "max-long-partial-prefills": _NO_PHASES,
    "long-prefill-token-threshold": _NO_PHASES,
    "static-decode-blocks": "blocks are allocated one by one as a sequence grows",
    "prealloc-dec-block-slot-num-threshold": "blocks are allocated one by one as a sequence grows",
    "enable-overlap-schedule": "scheduling takes microseconds here and needs no overlap",
    "skip-port-check": "ports are always checked",
    "disable-custom-all-reduce": _ONE_DEVICE,
    "enable-flashinfer-allreduce-fusion": _ONE_DEVICE,
    "disable-sequence-parallel-moe": _ONE_DEVICE,
    "use-internode-ll-two-stage": _ONE_DEVICE,
    "enable-chunked-moe": "the token budget of a step bounds the experts' work",
    "chunked-moe-size": "the token budget of a step bounds the experts' work",
    **{f"scheduler-{name}": _LOCAL_SCHEDULER for name in _SCHEDULER.split()},
}
"""Flag → why it changes nothing; it is accepted with one line that says so."""
