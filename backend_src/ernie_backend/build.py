"""The only place that constructs the whole engine; sizes the cache. After it, nothing is `auto` any more."""

from __future__ import annotations

import gc
import logging
import os
import sys
import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from .config import EngineConfig, ModelConfig
from .core.admission import Limits
from .core.engine_core import EngineCore
from .core.outputs import StepOutput
from .core.scheduler import Scheduler
from .delivery import RESPONSES_PER_CORE_SECOND, Delivery, ResponseSink
from .engine import ABORTED, Engine, refusal
from .errors import CheckpointError, ConfigError, ErnieError
from .protocol import FinishReason, GenerateEvent, GenerateRequest
from .relay import RelayReceiver

if TYPE_CHECKING:
    from .execution.constraint import GrammarCompiler
    from .execution.models import LanguageModel

log = logging.getLogger(__name__)

SWITCH_INTERVAL_SECONDS = 0.0005
"""How long another thread may keep the interpreter once the engine's wants it. Beside a busy thread, a step of 2.1 ms took 7 to 12 with
Python's 5 ms, and 2.1 with this."""


CoreMaker = Callable[[EngineConfig, ModelConfig], EngineCore]
"""From a resolved configuration to scheduler and runner."""


class TokenTable(Protocol):
    """What grammars must know of a tokenizer (`text.tokenizer.Tokenizer`)."""

    vocab_size: int

    @property
    def control_ids(self) -> frozenset[int]: ...
    def token_bytes(self, token_id: int) -> bytes: ...
    def encode_text(self, text: str) -> list[int]: ...


class _Compiling:
    """Requests whose grammars are being compiled: taken, but not yet the engine's. For several threads at once."""

    def __init__(self, engine: Engine, delivery: Delivery) -> None:
        self._engine = engine
        self._delivery = delivery
        self._requests: dict[str, GenerateRequest] = {}
        self._lock = threading.Lock()
        """Held while the engine is told: whoever is not here any more is in its inbox, before whatever is put there next."""

    def __contains__(self, key: str) -> bool:
        return key in self._requests

    def enter(self, request: GenerateRequest) -> None:
        with self._lock:
            self._requests[request.key] = request

    def submit(self, request: GenerateRequest) -> None:
        """To the engine, unless it has been aborted."""
        with self._lock:
            if self._requests.pop(request.key, None) is not None:
                self._engine.submit(request)

    def refuse(self, key: str, error: ErnieError, reason: FinishReason = FinishReason.ERROR) -> None:
        with self._lock:
            request = self._requests.pop(key, None)
        if request is not None:
            self._delivery.push(refusal(request, error.to_wire(), reason))

    def abort(self, key: str) -> None:
        """Its client has gone. To the engine, too, which may have it already."""
        self.refuse(key, ABORTED, FinishReason.ABORT)
        self._engine.abort(key)

    def abort_answers(self, tenant: str | None, answer_ids: tuple[str, ...] | None, reply: Callable[[tuple[str, ...]], None]) -> None:
        """As `Engine.abort_answers`, these included."""
        with self._lock:
            of_tenant = [request for request in self._requests.values() if tenant in (None, request.tenant)]
            found = [self._requests.pop(request.key) for request in of_tenant if answer_ids is None or request.answer_id in answer_ids]
            here = tuple(request.answer_id for request in found)
            self._engine.abort_answers(tenant, answer_ids, lambda others: reply(tuple(dict.fromkeys((*here, *others)))))
        for request in found:
            self._delivery.push(refusal(request, ABORTED.to_wire(), FinishReason.ABORT))


@dataclass
class ServingEngine:
    """Engine, delivery and relay, wired; what an adapter starts and stops."""

    config: EngineConfig
    model_config: ModelConfig
    engine: Engine
    delivery: Delivery
    relay: RelayReceiver
    grammars: GrammarCompiler
    compiling: _Compiling
    draining: threading.Event
    """Set when the engine has been told to drain."""

    @property
    def fault(self) -> str | None:
        """Why requests are not being answered; None if they are."""
        if not self.engine.is_alive:
            return "its thread has died"
        if not self.delivery.is_alive:
            return "the thread that delivers answers has died"
        if not self.relay.is_alive:
            return "the thread that hears of consumed answers has died"
        limit = self.config.step_timeout_seconds
        if limit is not None and self.engine.step_seconds > limit:
            return f"a step has taken longer than {limit:g} s"
        return None

    def submit(self, request: GenerateRequest) -> None:
        """Hand a request to the engine, its grammar compiled if it has one; returns at once."""
        if request.sampling.grammar is None:
            self.engine.submit(request)
            return

        def refuse(error: ErnieError) -> None:
            error.param = error.param or request.sampling.grammar_field or None
            self.compiling.refuse(request.key, error)

        def place(matcher: Any) -> None:
            self.compiling.submit(replace(request, matcher=matcher))

        self.compiling.enter(request)
        self.grammars.compile(request.sampling.grammar, place, refuse, lambda: request.key in self.compiling)

    def abort_answers(
        self, tenant: str | None, answer_ids: tuple[str, ...] | None, sink: ResponseSink, hear: Callable[[tuple[str, ...]], None]
    ) -> None:
        """End the tenant's requests (None: everybody's) that go by one of the ids; None: all. `hear` gets the ids that were found, then
        `sink` one response."""
        key = uuid.uuid4().hex
        self.delivery.register(key, sink, n=1, streamed=False)

        def reply(found: tuple[str, ...]) -> None:
            hear(found)
            self.delivery.push(StepOutput((GenerateEvent(key, 0, (), finish_reason=FinishReason.STOP),)))

        self.compiling.abort_answers(tenant, answer_ids, reply)

    def shutdown(self) -> None:
        """End every stream properly, then every thread; sockets go away."""
        self.grammars.close()
        self.engine.shutdown()
        self.delivery.close()
        self.relay.close()


class _RelayToEngine:
    """What postprocess says, to those whom it concerns."""

    def __init__(self, engine: Engine, delivery: Delivery, compiling: _Compiling, draining: threading.Event) -> None:
        self._engine, self._draining = engine, draining
        self.consumed = delivery.consumed
        self.cancelled = compiling.abort
        self.stopped = engine.stop
        self.ended = engine.ended

    def drain(self, seconds: float) -> None:
        self._engine.drain(seconds)
        self._draining.set()


def build_engine(
    config: EngineConfig,
    tokens: TokenTable,
    end_token_ids: Callable[[ModelConfig], Sequence[int]],
    make_core: CoreMaker | None = None,
) -> ServingEngine:
    """Load the model, size the cache, wire and start everything. Raises `ConfigError` or `CheckpointError`.

    `tokens` and `end_token_ids`, the ids that end an answer, are for grammars. `make_core`: another one than `build_core`'s, to measure or
    to test what stands around it.
    """
    model_config = ModelConfig.from_folder(config.model)
    config = config.resolved(model_config)
    core = (make_core or build_core)(config, model_config)
    grammars = _grammar_compiler(tokens, end_token_ids(model_config), model_config.vocab_size)
    _share_interpreter()
    if config.step_timeout_seconds is None:
        config = replace(config, step_timeout_seconds=_step_timeout_seconds())
    return serve_core(core, config, model_config, grammars)


def _step_timeout_seconds() -> float:
    """Far above what a step takes: on a GPU that is some 0.1 s (a kernel that is not compiled yet: some seconds more), on a CPU a prompt of
    2048 tokens for a model with 3 billion active parameters up to two minutes."""
    from ernie_kernels import xp

    return 60.0 if xp.on_gpu else 300.0


def _grammar_compiler(tokens: TokenTable, end_token_ids: Sequence[int], vocab_size: int) -> GrammarCompiler:
    from .execution.constraint import GrammarCompiler, Vocabulary

    token_bytes = [tokens.token_bytes(i) for i in range(tokens.vocab_size)]
    return GrammarCompiler(Vocabulary(token_bytes, tokens.control_ids, end_token_ids, vocab_size, tokens.encode_text))


def build_core(config: EngineConfig, model_config: ModelConfig) -> EngineCore:
    """Scheduler and runner of a resolved configuration, warmed up. `CheckpointError` if no answer could come of it."""
    if config.cpu_threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(config.cpu_threads)  # read once, when the framework is imported
    from ernie_kernels import xp  # here, not above: importing it imports the framework

    from .execution.kv_cache import kv_cache_bytes_per_block
    from .execution.memory import cache_budget_bytes
    from .execution.model_runner import ModelRunner

    model = _model(config, model_config)
    bytes_per_block = kv_cache_bytes_per_block(model_config, config.block_size_tokens)
    num_blocks = _cache_blocks(config, bytes_per_block, cache_budget_bytes(config, model_config), on_gpu=xp.on_gpu)
    runner = ModelRunner(model, model_config, config, num_blocks)
    runner.warm_up()
    if runner.first_token().failed:
        text = f"The weights in {config.model!r} give logits that are not finite: some of them are NaN, or too large. Is a file damaged?"
        raise CheckpointError(text, param="model")
    return EngineCore(Scheduler(config, num_blocks), runner)


def _model(config: EngineConfig, model_config: ModelConfig) -> LanguageModel:
    """The checkpoint's, or one with random weights if the configuration says so."""
    from .execution.random_model import random_model, weight_bytes
    from .execution.weights import load_model

    if config.load_format == "dummy":
        log.warning("load_format is dummy: %.2f GB of random weights, answers are nonsense", weight_bytes(model_config) / 1e9)
        return random_model(model_config)
    return load_model(config.model, model_config)


def serve_core(core: EngineCore, config: EngineConfig, model_config: ModelConfig, grammars: GrammarCompiler) -> ServingEngine:
    """Put a core on its thread and connect it with delivery and relay."""
    listener: list[Callable[[StepOutput], None]] = []
    engine = Engine(core, lambda output: listener[0](output), Limits.of(config))
    delivery = Delivery(
        config.delivery_window_responses,
        abort=engine.abort,
        stop=engine.stop,
        stream_interval_tokens=config.stream_interval,
        max_responses_per_second=RESPONSES_PER_CORE_SECOND * len(os.sched_getaffinity(0)),
    )
    listener.append(delivery.push)
    draining = threading.Event()
    compiling = _Compiling(engine, delivery)
    relay = RelayReceiver(_RelayToEngine(engine, delivery, compiling, draining), config.runtime_dir)
    delivery.start()
    engine.start()
    return ServingEngine(config, model_config, engine, delivery, relay, grammars, compiling, draining)


def _share_interpreter() -> None:
    """What the threads of this process owe the engine's, once all that stays has been built."""
    gc.collect()
    gc.freeze()  # 150,000 objects of libraries and model, which every full collection would look at: 40 ms without a step
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)


def _cache_blocks(config: EngineConfig, bytes_per_block: int, budget_bytes: int, *, on_gpu: bool) -> int:
    """As configured; else all that the budget allows (GPU), or what max_num_seqs full sequences need, if it allows that (CPU)."""
    from .execution.memory import CPU_CACHE_SHARE

    if config.num_blocks is not None:
        wanted, free = config.num_blocks * bytes_per_block, budget_bytes / CPU_CACHE_SHARE
        if not on_gpu and wanted > free:  # a GPU says so itself; here the operating system would kill someone, later
            raise ConfigError(
                f"num_blocks ({config.num_blocks} of {config.block_size_tokens} tokens) would take {wanted / 2**30:.1f} GiB, but only "
                f"{free / 2**30:.1f} GiB are free. Lower --num-gpu-blocks-override.",
                param="num_blocks",
            )
        return config.num_blocks
    least, affordable = config.blocks_per_sequence, max(0, budget_bytes) // bytes_per_block
    if affordable < least:
        raise ConfigError(
            f"One sequence of max_model_len ({config.max_model_len} tokens) needs {least * bytes_per_block / 2**30:.1f} GiB of KV cache, "
            f"but only {affordable * bytes_per_block / 2**30:.1f} GiB are left for it. Lower --max-model-len"
            f"{', or raise --gpu-memory-utilization' if on_gpu else ''}.",
            param="max_model_len",
        )
    num_blocks = affordable if on_gpu else min(affordable, least * config.max_num_seqs)
    log.info("KV cache: %d blocks of %d tokens, %.2f GiB", num_blocks, config.block_size_tokens, num_blocks * bytes_per_block / 2**30)
    return num_blocks
