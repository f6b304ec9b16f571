"""The path around the model, measured: model repositories whose engine is a clock, and what clients see of them. Starts no server."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ..errors import EngineError
from ..text.tokenizer import Tokenizer
from .clock import PROMPT_KEY_IDS, read_log
from .load_client import Answer, Job
from .process_usage import forget_peaks, spent, usage_of
from .server_bench import percentile, run_clients, summary

PASSAGE = (
    "A server answers many people at once, and each of them reads at a pace of their own. What they ask arrives in any order; what they "
    "get must come in the right one, without a gap, and as soon as it is known. So the tokens of an answer leave one by one while there is "
    "room on the way, and together when there is none: nobody waits for a neighbour, and no token waits for longer than it has to."
)
"""What the clock answers, over and over: plain words, no character that JSON escapes."""

_MODEL = '''"""The engine step with a clock in place of its model."""

import functools

import triton_python_backend_utils as pb_utils

from ernie_backend.benchmark.clock import clock_core
from ernie_backend.triton_adapter.engine import EngineModel


class TritonPythonModel(EngineModel):
    def __init__(self) -> None:
        super().__init__(pb_utils, functools.partial(clock_core, **{clock!r}))
'''

_NAIVE_MODEL = '''"""A step of the naive peer."""

import triton_python_backend_utils as pb_utils

from ernie_backend.benchmark.naive import {name}


class TritonPythonModel({name}):
    def __init__(self) -> None:
        super().__init__(pb_utils, **{arguments!r})
'''

_BYTES, _IDS = "TYPE_STRING dims: [ 1 ]", "TYPE_INT32 dims: [ -1 ]"
_NAIVE_STEPS: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "ernie_preprocess": (
        {"chat": _BYTES, "sampling_parameters": _BYTES, "stream": "TYPE_BOOL dims: [ 1 ] optional: true"},
        {"prompt_token_ids": _IDS, "max_tokens": _IDS},
    ),
    "ernie_engine": ({"prompt_token_ids": _IDS, "max_tokens": _IDS}, {"new_token_ids": _IDS}),
    "ernie_postprocess": ({"new_token_ids": _IDS}, {"text_output": _BYTES, "token_ids": _IDS}),
}
"""Inputs and outputs of each."""


@dataclass(frozen=True)
class Clock:
    """What the engine's clock goes by."""

    token_ids: tuple[int, ...]
    step_seconds: float
    log_path: str


def table_of(model_folder: str | Path) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The passage's tokens as ids and as texts."""
    tokenizer = Tokenizer.from_folder(model_folder)
    ids = tuple(tokenizer.encode_text(PASSAGE))
    return ids, tuple(tokenizer.token_bytes(i).decode("ascii") for i in ids)


def clock_model(clock: Clock) -> str:
    """The model.py of an engine with a clock in place of its model."""
    return _MODEL.format(clock=asdict(clock))


def write_repository(folder: Path, real: Path, engine_model: str) -> None:
    """Our model repository (`real`) as it is, but for the engine's model.py."""
    for name in ("ernie", "ernie_preprocess", "ernie_postprocess"):
        (folder / name).symlink_to(real / name, target_is_directory=True)
    engine = folder / "ernie_engine"
    (engine / "1").mkdir(parents=True)
    (engine / "config.pbtxt").symlink_to(real / "ernie_engine" / "config.pbtxt")
    (engine / "1" / "model.py").write_text(engine_model, encoding="utf-8")


def write_naive_repository(folder: Path, clock: Clock, token_texts: Sequence[str]) -> None:
    """The peer's (`naive`), with the tensors that a load client looks at."""
    classes: dict[str, tuple[str, dict[str, object]]] = {
        "ernie_preprocess": ("NaivePreprocess", {}),
        "ernie_engine": ("NaiveEngine", asdict(clock)),
        "ernie_postprocess": ("NaivePostprocess", {"texts": dict(zip(clock.token_ids, token_texts, strict=True))}),
    }
    for name, (kind, arguments) in classes.items():
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "1" / "model.py").write_text(_NAIVE_MODEL.format(name=kind, arguments=arguments), encoding="utf-8")
        decoupled = "model_transaction_policy { decoupled: true }\n" if name == "ernie_engine" else ""
        inputs, outputs = _NAIVE_STEPS[name]
        tensors = _tensors("input", inputs) + _tensors("output", outputs)
        config = f'name: "{name}"\nbackend: "python"\nmax_batch_size: 0\n{decoupled}{tensors}'
        (folder / name / "config.pbtxt").write_text(f"{config}instance_group [ {{ kind: KIND_CPU count: 1 }} ]\n", encoding="utf-8")
    steps = ",\n".join(
        f'  {{ model_name: "{name}" model_version: -1 '
        + " ".join(f'input_map {{ key: "{tensor}" value: "{tensor}" }}' for tensor in inputs)
        + " "
        + " ".join(f'output_map {{ key: "{tensor}" value: "{tensor}" }}' for tensor in outputs)
        + " }"
        for name, (inputs, outputs) in _NAIVE_STEPS.items()
    )
    given = _tensors("input", _NAIVE_STEPS["ernie_preprocess"][0])
    config = f'name: "ernie"\nplatform: "ensemble"\nmax_batch_size: 0\n{given}{_tensors("output", _NAIVE_STEPS["ernie_postprocess"][1])}'
    (folder / "ernie" / "1").mkdir(parents=True)
    (folder / "ernie" / "config.pbtxt").write_text(f"{config}ensemble_scheduling {{ step [\n{steps}\n] }}\n", encoding="utf-8")


def _tensors(direction: str, tensors: Mapping[str, str]) -> str:
    lines = ",\n".join(f'  {{ name: "{name}" data_type: {kind} }}' for name, kind in tensors.items())
    return f"{direction} [\n{lines}\n]\n"


@dataclass(frozen=True)
class PathRow:
    """One run: so many streams, one protocol, one way of delivering."""

    mode: str
    protocol: str
    streams: int
    failed: int
    error: str | None
    """Of the first request that failed."""
    seconds: float
    tokens_per_second: float
    responses_per_second: float
    first_token_ms: tuple[float, float]
    """p50 and p99: from asking to the first token."""
    lateness_ms: tuple[float, float]
    """p50 and p99 over tokens: from the end of the step that made it to its arrival at the client."""
    cpu_seconds: dict[str, float]
    """By process, clients included."""
    peak_bytes: dict[str, int]


def measure(mode: str, job: Job, processes: int, log_path: str, root: int, progress: Callable[[int], None]) -> PathRow:
    """Load the server whose processes are below `root`, and hold what came against the clock's log."""
    processes = min(processes, job.streams)
    forget_peaks(root)
    before = usage_of(root)
    results = run_clients(job, processes, progress)
    after = usage_of(root)
    answers = [answer for result in results for answer in result.answers]
    row = summary(answers, job.streams, processes)
    late = _lateness(answers, read_log(log_path))
    return PathRow(
        *(mode, job.protocol, job.streams, row.failed, row.error, row.seconds, row.tokens_per_second, row.responses_per_second),
        first_token_ms=row.first_token_ms,
        lateness_ms=(percentile(late, 50), percentile(late, 99)),
        cpu_seconds=spent(before, after) | {"clients": sum(result.cpu_seconds for result in results)},
        peak_bytes={name: usage.peak_bytes for name, usage in after.items()} | {"clients": sum(result.peak_bytes for result in results)},
    )


def _lateness(answers: Sequence[Answer], log: Mapping[tuple[int, ...], array[float]]) -> list[tuple[float, float]]:
    """(ms, 1) of every token of the good answers."""
    late: list[tuple[float, float]] = []
    for answer in answers:
        if answer.error is not None:
            continue
        due = log.get(tuple(answer.prompt[:PROMPT_KEY_IDS]))
        if due is None or len(due) < sum(answer.tokens):
            raise EngineError("The clock's log does not hold an answer that came: the clients and the engine must run on one machine.")
        position = 0
        for now, tokens in zip(answer.times, answer.tokens, strict=True):
            late += [((now - due[i]) * 1e3, 1.0) for i in range(position, position + int(tokens))]
            position += int(tokens)
    return late


def job_for(protocol: str, address: str, streams: int, *, prompt: int, tokens: int, seed: int, token_texts: tuple[str, ...]) -> Job:
    """One answer for each stream."""
    return replace(Job(protocol, address, streams, 1, prompt, tokens, seed), token_texts=token_texts)
