"""The flags of `ernie-triton serve`: FastDeploy's names, read into `ServeOptions`; starts nothing and reads no model."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import PARSERS, EngineConfig
from ..errors import ConfigError
from ..flag_parsing import (
    MAX_PENDING_BYTES,
    MAX_WORKERS,
    integer,
    json_object,
    not_empty,
    number,
    port_number,
    seconds,
    seconds_or_longest,
    switch,
    whole,
    worker_count,
)
from ..model_folder import name_of
from . import load_flags, observability_flags, security_flags
from .fastdeploy_flags import NOT_SUPPORTED_YET, WITHOUT_MEANING
from .observability_flags import ObservabilityOptions
from .security_flags import SecurityOptions, read_security

DEFAULT_METRICS_PORT = 8002

_ENGINE_FLAGS: dict[str, tuple[str, Callable[[str], Any], str]] = {
    "load_format": ("--load-format", str, "auto (the folder's weights) or dummy (random ones, for measuring: no weight files needed)"),
    "max_model_len": (
        "--max-model-len",
        integer,
        "most tokens of prompt and answer together (default: 4096, or the model's context if shorter)",
    ),
    "max_num_seqs": ("--max-num-seqs", integer, "most sequences in one step (default: 8)"),
    "max_num_batched_tokens": ("--max-num-batched-tokens", integer, "most tokens in one step (default: 2048)"),
    "block_size_tokens": ("--block-size", integer, "tokens of a KV-cache block (default: 64)"),
    "num_blocks": ("--num-gpu-blocks-override", integer, "KV-cache blocks (default: what fits and is needed)"),
    "gpu_memory_utilization": ("--gpu-memory-utilization", number, "share of the GPU's memory to use (default: 0.9)"),
    "stream_interval": ("--stream-interval", integer, "tokens of each streamed piece (default: one, more while the path is busy)"),
    "seed": ("--seed", integer, "seeds requests that give none (default: 0)"),
    "chat_template": ("--chat-template", str, "a jinja file, or the template itself (default: the checkpoint's own)"),
    "reasoning_parser": ("--reasoning-parser", str, f"{', '.join(PARSERS)} or none (default: by the chat template)"),
    "tool_call_parser": ("--tool-call-parser", str, f"{', '.join(PARSERS[1:])} or none (default: by the chat template)"),
    "generation_config": ("--generation-config", str, "auto (the model folder's), vllm (none) or a folder with generation_config.json"),
    "step_timeout_seconds": ("--step-timeout", number, "seconds after which a step is taken for hung (default: 60 on a GPU, 300 on a CPU)"),
    "max_encoder_cache_tokens": (
        "--max-encoder-cache",
        integer,
        "tokens of encoded images and videos to keep for the next turn; 0: none (default: -1, 512 MiB of them)",
    ),
    "max_processor_cache_gib": (
        "--max-processor-cache",
        number,
        "GiB of decoded images and videos that each of the two preprocess processes keeps for the next turn; 0: none (default: -1, 0.5)",
    ),
    "cpu_threads": ("--cpu-threads", integer, "threads of the CPU engine (default: all cores)"),
}
"""`EngineConfig` field → flag, type, help."""

_MEDIA_FLAGS = {
    "limit_mm_per_prompt": ("--limit-mm-per-prompt", 'most images and videos of one prompt (default: {"image": 1, "video": 1})'),
    "mm_processor_kwargs": (
        "--mm-processor-kwargs",
        'how they are resized and sampled, such as {"video_max_frames": 30} (default: the model\'s)',
    ),
}
"""The same, for JSON objects."""
_MEDIA_SOURCES = ("allowed_media_domains", "allow_private_media", "allowed_local_media_path")
"""Fields whose flags are called as they are."""


@dataclass(frozen=True)
class ServeOptions:
    """A launch line, read. Model and configuration are not yet held against each other: that is `serve`'s first step."""

    engine: EngineConfig
    host: str
    port: int
    workers: int
    served_model_name: str | None
    security: SecurityOptions
    triton_host: str
    triton_http_port: int
    triton_grpc_port: int
    metrics_port: int
    tritonserver: str | None
    model_repository: str | None
    max_pending_bytes: int
    shutdown_grace_seconds: float
    max_restarts: int
    """Of tritonserver within ten minutes, and of the front end."""
    verbose: bool
    observability: ObservabilityOptions
    notes: tuple[str, ...]
    """One line for each flag that was accepted without a meaning here."""
    warnings: tuple[str, ...]
    """One line for each thing that is left open to others."""

    @property
    def model_name(self) -> str:
        """What /v1/models shows."""
        return self.served_model_name or name_of(Path(self.engine.model))

    @property
    def ports(self) -> dict[str, tuple[str, int]]:
        """Flag → the address that it makes us listen on."""
        return {
            "--port": (self.host, self.port),
            "--triton-http-port": (self.triton_host, self.triton_http_port),
            "--triton-grpc-port": (self.triton_host, self.triton_grpc_port),
            "--metrics-port": (self.triton_host, self.metrics_port),
        }


def normalise(arguments: Sequence[str]) -> list[str]:
    """FastDeploy's documents write flags with `-` and with `_`, sometimes mixed; values stay untouched."""
    normal = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        normal.append(name.replace("_", "-") + equals + value if name.startswith("--") else argument)
    return normal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Every flag that `serve` knows."""
    serving = parser.add_argument_group("serving")
    serving.add_argument("--model", metavar="DIR", help="the model folder (default: the demo model of this package)")
    serving.add_argument("--host", type=not_empty, default="0.0.0.0", help="address of the OpenAI front end (default: %(default)s)")
    serving.add_argument("--port", type=port_number, default=8180, help="port of the OpenAI front end (default: %(default)s)")
    processes = f"HTTP processes of the front end, at most {MAX_WORKERS} (default: %(default)s)"
    serving.add_argument("--workers", type=worker_count, default=1, metavar="N", help=processes)
    serving.add_argument(
        "--served-model-name", type=not_empty, metavar="NAME", help="the model's name; other names in requests are then refused"
    )
    pending = "of a streamed answer that its client has not read yet; more end it with an error (default: %(default)s)"
    serving.add_argument("--max-pending-bytes", type=whole(1, MAX_PENDING_BYTES), default=2**20, metavar="N", help=pending)
    _add_grace(serving)
    restarts = "restarts of what has died or hangs within ten minutes; then, or with 0, serve ends (default: %(default)s)"
    serving.add_argument("--max-restarts", type=whole(0, 1000), default=5, metavar="N", help=restarts)
    serving.add_argument("--verbose", action="store_true", help="show tritonserver's whole log, not only warnings and errors")

    load_flags.add_arguments(parser.add_argument_group("load"))

    engine = parser.add_argument_group("engine")
    for field, (flag, kind, text) in _ENGINE_FLAGS.items():
        engine.add_argument(flag, dest=field, type=kind, help=text)
    engine.add_argument(
        "--deterministic",
        type=switch,
        nargs="?",
        const=True,
        help="answers do not depend on what shares their steps, to the bit; slower on a GPU, a CPU always computes like that",
    )
    for name in ("prefix-caching", "chunked-prefill"):
        field = f"enable_{name.replace('-', '_')}"
        engine.add_argument(f"--enable-{name}", dest=field, type=switch, nargs="?", const=True, help="on unless set to false")
        engine.add_argument(f"--no-enable-{name}", dest=field, action="store_false", default=None, help=argparse.SUPPRESS)

    _add_media_arguments(parser.add_argument_group("images and videos"))
    security_flags.add_arguments(parser.add_argument_group("security"))
    observability_flags.add_arguments(parser.add_argument_group("logs and traces"))

    triton = parser.add_argument_group("Triton")
    triton.add_argument(
        "--tritonserver", metavar="PATH", help="program or root folder (default: /opt/tritonserver, else the nvidia-pytriton wheel)"
    )
    triton.add_argument("--model-repository", metavar="DIR", help="Triton's model repository (default: the one of this checkout)")
    own = "address of Triton's own ports (default: %(default)s)"
    triton.add_argument("--triton-host", type=not_empty, default="127.0.0.1", metavar="HOST", help=own)
    shown = "default: %(default)s"
    triton.add_argument("--triton-http-port", type=port_number, default=8000, metavar="PORT", help=shown)
    triton.add_argument("--triton-grpc-port", type=port_number, default=8001, metavar="PORT", help=shown)
    metrics = ("--metrics-port", "--triton-metrics-port")
    triton.add_argument(*metrics, dest="metrics_port", type=port_number, default=DEFAULT_METRICS_PORT, metavar="PORT", help=shown)

    for name in (*NOT_SUPPORTED_YET, *WITHOUT_MEANING):
        parser.add_argument(f"--{name}", dest=_inert(name), nargs="?", const="true", help=argparse.SUPPRESS)


def _add_grace(serving: argparse._ArgumentGroup) -> None:
    grace = "time for running requests after SIGTERM (default: 30)"
    serving.add_argument("--shutdown-grace-seconds", type=seconds, default=30.0, metavar="N", help=grace)
    serving.add_argument(
        "--timeout-graceful-shutdown",
        dest="shutdown_grace_seconds",
        type=seconds_or_longest,
        default=argparse.SUPPRESS,
        metavar="N",
        help="the same; 0, which is FastDeploy's default: as long as they take",
    )


def _add_media_arguments(media: argparse._ArgumentGroup) -> None:
    for field, (flag, text) in _MEDIA_FLAGS.items():
        media.add_argument(flag, dest=field, type=json_object, metavar="JSON", help=text)
    domains = "hosts to fetch from, such as example.com or .example.com for all below it (default: every public one)"
    media.add_argument("--allowed-media-domains", type=_names, nargs="+", action="extend", metavar="HOST", help=domains)
    private = "fetch from private addresses and any port, too (default: public addresses, ports 80, 443, 8080, 8443)"
    media.add_argument("--allow-private-media", type=switch, nargs="?", const=True, help=private)
    media.add_argument(
        "--allowed-local-media-path", type=_folder, metavar="DIR", help="read file:// URLs below this folder (default: none)"
    )


def read_options(args: argparse.Namespace, *, on_gpu: bool) -> ServeOptions:
    """`ConfigError` for a flag of a later feature, a wrong value or colliding ports. `on_gpu` decides which flags mean nothing."""
    _refuse_later_features(args)
    security = read_security(args, os.environ)
    observability = observability_flags.read_arguments(args)
    options = ServeOptions(
        engine=_engine_config(args, observability),
        host=args.host,
        port=args.port,
        workers=args.workers,
        served_model_name=args.served_model_name,
        security=security,
        triton_host=args.triton_host,
        triton_http_port=args.triton_http_port,
        triton_grpc_port=args.triton_grpc_port,
        # FastDeploy: the metrics port may be the main port, and the front end does answer /metrics there
        metrics_port=args.metrics_port if args.metrics_port != args.port else DEFAULT_METRICS_PORT,
        tritonserver=args.tritonserver,
        model_repository=args.model_repository,
        max_pending_bytes=args.max_pending_bytes,
        shutdown_grace_seconds=args.shutdown_grace_seconds,
        max_restarts=args.max_restarts,
        verbose=args.verbose,
        observability=observability,
        notes=tuple(_notes(args, on_gpu)),
        warnings=tuple(security.warnings(args.host, args.triton_host)),
    )
    _check_distinct(options.ports)
    return options


def _refuse_later_features(args: argparse.Namespace) -> None:
    for name, off in NOT_SUPPORTED_YET.items():
        value = getattr(args, _inert(name))
        if value is not None and value.strip().lower() not in off:
            hint = f" Leave it out, or give {' or '.join(off)}." if off else " Leave it out."
            raise ConfigError(f"--{name} is not supported yet.{hint}", param=name)


def _notes(args: argparse.Namespace, on_gpu: bool) -> list[str]:
    notes = [f"--{name} has no effect: {why}." for name, why in WITHOUT_MEANING.items() if getattr(args, _inert(name)) is not None]
    if args.gpu_memory_utilization is not None and not on_gpu:
        notes.append("--gpu-memory-utilization has no effect: there is no GPU.")
    if (args.limit_mm_per_prompt or {}).get("audio"):
        notes.append("--limit-mm-per-prompt: audio has no effect: no model here takes any.")
    if args.metrics_port == args.port:
        notes.append(f"--metrics-port is the same as --port, where /metrics answers too; Triton's own is on {DEFAULT_METRICS_PORT}.")
    return notes


def _engine_config(args: argparse.Namespace, observability: ObservabilityOptions) -> EngineConfig:
    names = (*_ENGINE_FLAGS, *_MEDIA_FLAGS, "deterministic", "enable_prefix_caching", "enable_chunked_prefill")
    names = (*names, *_MEDIA_SOURCES[1:])
    values: dict[str, Any] = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    values |= observability.engine_values
    if args.allowed_media_domains is not None:
        values["allowed_media_domains"] = [name for names in args.allowed_media_domains for name in names]
    if "chat_template" in values:
        values["chat_template"] = _chat_template(values["chat_template"])
    if values.get("generation_config", "auto") not in ("auto", "vllm"):  # a folder: the engine runs in another one than we do
        values["generation_config"] = str(Path(values["generation_config"]).expanduser().resolve())
    try:
        config = EngineConfig(model=args.model, **values, **load_flags.read_fields(args))
    except ConfigError as error:
        raise ConfigError(f"{flag_of(error)}{error.message}", param=error.param) from None
    return config


def flag_of(error: ConfigError) -> str:
    """What to put before an `EngineConfig` error, which names its field: the flag that set it; empty if no flag does."""
    name = (error.param or "").partition(".")[0]
    if name in _MEDIA_SOURCES:
        return f"--{name.replace('_', '-')}: "
    if name in load_flags.LOAD_FIELDS:
        return f"{load_flags.LOAD_FIELDS[name]}: "
    known = _ENGINE_FLAGS.get(name) or _MEDIA_FLAGS.get(name)
    return f"{known[0]}: " if known else "--model: " if name == "model" else ""


def _chat_template(value: str) -> str:
    """FastDeploy: literal if it holds a brace or a line break, else a file."""
    if any(sign in value for sign in "{}\n"):
        return value
    path = Path(value).expanduser()
    if not path.is_file():
        raise ConfigError(
            f"--chat-template: the file {value!r} does not exist (a template itself would hold braces).", param="chat_template"
        )
    return str(path.resolve())


def _check_distinct(ports: dict[str, tuple[str, int]]) -> None:
    seen: dict[int, str] = {}
    for flag, (_, port) in ports.items():
        if port in seen:
            raise ConfigError(f"{seen[port]} and {flag} are both {port}. Give each a port of its own.", param=flag.lstrip("-"))
        seen[port] = flag


def numbers(text: str, flag: str) -> list[int]:
    """`1,16,64` → the list. Raises `ConfigError` naming the flag."""
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise ConfigError(f"{flag} must be sizes such as 1,16,64, got {text!r}.", param=flag.lstrip("-").replace("-", "_"))
    return found


def _inert(name: str) -> str:
    """Where argparse keeps a flag that we only look at; apart from the fields that mean something."""
    return f"inert_{name.replace('-', '_')}"


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _folder(text: str) -> str:
    path = Path(text).expanduser()
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"must be a folder, got {text!r}")
    return str(path.resolve())
