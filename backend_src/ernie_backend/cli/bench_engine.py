"""`ernie-triton bench engine`: the engine at full size with random weights, beside what this machine could do at best; serves nothing."""

from __future__ import annotations

import argparse
import gc
import json
import re
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from ..flag_parsing import integer, number
from .flags import numbers

if TYPE_CHECKING:
    from ..benchmark.engine_bench import EngineBench
    from ..benchmark.roofline import Ceilings
    from ..benchmark.transformers_peer import PeerRow
    from ..config import ModelConfig

_PREFILL_CASES = "1x1024,1x8192,8x1024,1x32768"
_PEER_STEPS = 16
"""The peer's decode steps: it is slow enough for that."""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """The subcommand's flags; `args.run` is set to `run`."""
    from ..checkpoint_writer.published import MODELS

    parser = subparsers.add_parser(
        "engine",
        help="scheduler and model runner with random weights of full size",
        description="Decode and prefill speed of the engine without a server, and its ratio to the roofline measured in the same run.",
        allow_abbrev=False,
    )
    parser.add_argument("--like", required=True, choices=tuple(MODELS), help="the published model whose sizes are taken")
    parser.add_argument(
        "--set", action="append", nargs="+", default=[], metavar="KEY=VALUE", help="change a key of config.json: --set num_hidden_layers=2"
    )
    parser.add_argument(
        "--dtype", choices=("bfloat16", "float32"), default=None, help="must be the device's: bfloat16 on a GPU, else float32"
    )
    parser.add_argument("--batch", default="1,4,16,64,128,256", metavar="N,N,…", help="decode batches; empty: none (default: %(default)s)")
    parser.add_argument("--prompt", type=integer, default=512, help="tokens in front of the first decode step (default: %(default)s)")
    parser.add_argument("--steps", type=integer, default=64, help="decode steps to time (default: %(default)s)")
    parser.add_argument("--prefill", default=_PREFILL_CASES, metavar="NxLEN,…", help="prompts × length; empty: none (default: %(default)s)")
    parser.add_argument("--closed-loop", metavar="PROMPTxOUTPUT", help="also keep requests of such lengths in flight: 1024x1024")
    parser.add_argument("--concurrency", default="64,128,256,512", metavar="N,N,…", help="… so many at once (default: %(default)s)")
    parser.add_argument("--image", metavar="WxH,…", help="also encode images of these pixels, and answer requests with one each")
    parser.add_argument("--image-requests", type=integer, default=16, metavar="N", help="… so many at once (default: %(default)s)")
    parser.add_argument("--image-output", type=integer, default=128, metavar="N", help="… with so many tokens (default: %(default)s)")
    parser.add_argument("--max-num-batched-tokens", type=integer, default=8192, help="tokens in one step (default: %(default)s)")
    parser.add_argument("--temperature", type=number, default=0.0, help="0 = greedy (default)")
    parser.add_argument("--top-p", type=number, default=1.0, help="with --temperature (default: %(default)s)")
    parser.add_argument("--deterministic", action="store_true", help="as with serve's flag of this name")
    parser.add_argument("--profile", action="store_true", help="add the kernels of the smallest decode step and of that of 64")
    parser.add_argument("--peer", choices=("transformers",), help="afterwards the same batches with its own class, in this process")
    parser.add_argument("--peer-batch", metavar="N,N,…", help="the peer's decode batch sizes, out of --batch (default: all)")
    parser.add_argument("--out", metavar="FILE", help="write the numbers as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the tables; write the file. Raises `ConfigError` for flags that do not fit model or device."""
    plan = _Plan(args)
    from ernie_kernels import xp

    from ..benchmark.roofline import measure_ceilings
    from ..checkpoint_writer.published import make_config
    from ..execution.random_model import weight_bytes

    dtype = "bfloat16" if xp.on_gpu else "float32"
    if args.dtype not in (None, dtype):
        raise ConfigError(f"--dtype {args.dtype}: this device computes in {dtype}.", param="dtype")
    raw, config = make_config(args.like, "pt", dtype, [setting for group in args.set for setting in group])
    plan.check(config)
    if args.peer:
        from ..benchmark.transformers_peer import check_installed

        check_installed()
    ceilings = measure_ceilings()
    print(
        f"copy {ceilings.copy / 1e12:.3f} TB/s, read {ceilings.read / 1e12:.3f} TB/s, {dtype} matmul {ceilings.matmul / 1e12:.1f} TFLOP/s"
    )
    print(f"{args.like}: {weight_bytes(config) / 1e9:.2f} GB of random weights", flush=True)
    report = _Report(args.out, model=args.like, set=args.set, dtype=dtype, framework=xp.name)
    report.put(date=time.strftime("%Y-%m-%d %H:%M:%S"), ceilings=asdict(ceilings))
    _ours(plan, config, ceilings, report)
    if args.peer:
        gc.collect()  # our weights, caches and graphs
        if xp.on_gpu:
            print(f"{xp.free_memory_bytes() / 1e9:.1f} GB are free for the peer", flush=True)
        _peer(plan, raw, dtype, report)
    return 0


class _Plan:
    """The flags that say what to measure, read. `ConfigError` names the wrong one."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.batches = numbers(args.batch, "--batch") if args.batch else []
        self.cases = _cases(args.prefill)
        self.concurrencies = numbers(args.concurrency, "--concurrency")
        self.loop = _pair(args.closed_loop, "--closed-loop", "prompt x output tokens such as 1024x1024") if args.closed_loop else None
        sizes = args.image.split(",") if args.image else []
        self.images = [_pair(size, "--image", "width x height in pixels such as 1024x1024") for size in sizes]
        if args.image_requests < 1 or args.image_output < 2:
            raise ConfigError("--image-requests must be at least 1 and --image-output at least 2.", param="image_requests")
        self.peer_batches = numbers(args.peer_batch, "--peer-batch") if args.peer_batch else self.batches
        if not set(self.peer_batches) <= set(self.batches):
            raise ConfigError(f"--peer-batch must be out of --batch, got {args.peer_batch!r}.", param="peer_batch")
        if args.peer_batch and not args.peer:
            raise ConfigError("--peer-batch needs --peer.", param="peer_batch")
        if args.profile and not self.batches and not self.images:
            raise ConfigError("--profile shows decode steps and images: it needs a --batch or an --image.", param="profile")

    def check(self, config: ModelConfig) -> None:
        """Against the model."""
        limit = config.max_position_embeddings
        if self.loop and sum(self.loop) > limit:
            raise ConfigError(f"--closed-loop {self.args.closed_loop} exceeds the model's context of {limit} tokens.", param="closed_loop")
        if self.images and config.vision is None:
            raise ConfigError(f"--image: {self.args.like} takes no images.", param="image")


class _Report:
    """The JSON file, written again after every part: what was measured before a failure stays."""

    def __init__(self, path: str | None, **values: Any) -> None:
        self.path = Path(path) if path else None
        self.values: dict[str, Any] = values

    def put(self, **values: Any) -> None:
        self.values |= values
        if self.path:
            self.path.write_text(json.dumps(self.values, indent=1) + "\n", encoding="utf-8")


def _ours(plan: _Plan, config: ModelConfig, ceilings: Ceilings, report: _Report) -> None:
    """Our engine's tables; its memory is free afterwards."""
    from ..benchmark.engine_bench import EngineBench
    from ..execution.random_model import random_model
    from ..protocol import SamplingParams

    sampling = SamplingParams(max_tokens=1, temperature=plan.args.temperature, top_p=plan.args.top_p)
    report.put(sampling=asdict(sampling), deterministic=plan.args.deterministic)
    bench = EngineBench(random_model(config), config, ceilings, sampling, deterministic=plan.args.deterministic)
    report.put(decode=_decode(bench, plan), prefill=[])
    report.put(prefill=_prefill(bench, plan))
    if plan.loop:
        report.put(closed_loop=_closed_loop(bench, plan, plan.loop))
    if plan.images:
        _images(bench, plan, report)
    if plan.args.profile and plan.batches:
        report.put(profiles=_profiles(bench, plan))


def _decode(bench: EngineBench, plan: _Plan) -> list[dict[str, Any]]:
    """Every row is printed as soon as it is there; so are those of the other tables."""
    rows: list[dict[str, Any]] = []
    if plan.batches:
        print(f"{'decode, batch':>14} {'context':>8} {'ms/step':>9} {'tokens/s':>10} {'floor ms':>9} {'ratio':>6}")
        for row in bench.decode(plan.batches, plan.args.prompt, plan.args.steps):
            rows.append(asdict(row))
            left = f"{row.batch:14} {row.context:8} {row.ms_per_step:9.3f} {row.tokens_per_second:10.0f}"
            print(f"{left} {row.floor_ms:9.3f} {row.ratio:6.2f}", flush=True)
    return rows


def _prefill(bench: EngineBench, plan: _Plan) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    if plan.cases:
        print(f"{'prefill':>14} {'ms':>18} {'tokens/s':>10} {'floor ms':>9} {'ratio':>6}")
        for row in bench.prefill(plan.cases, plan.args.max_num_batched_tokens):
            rows.append(asdict(row))
            name = f"{row.prompts} x {row.length}"
            print(f"{name:>14} {row.ms:18.2f} {row.tokens_per_second:10.0f} {row.floor_ms:9.2f} {row.ratio:6.2f}", flush=True)
    return rows


def _closed_loop(bench: EngineBench, plan: _Plan, lengths: tuple[int, int]) -> list[dict[str, Any]]:
    from ..benchmark.closed_loop import closed_loop

    rows: list[dict[str, Any]] = []
    print(f"closed loop, {lengths[0]} in, {lengths[1]} out; steps with prompt tokens beside decoding rows: number, ms")
    print(f"{'in flight':>14} {'output tok/s':>13} {'decode ms':>10} {'prompt steps':>16} {'preempted':>10} {'floor':>12} {'ratio':>6}")
    for row in closed_loop(bench, plan.concurrencies, *lengths, plan.args.max_num_batched_tokens):
        rows.append(asdict(row))
        mixed = f"{row.prompt_steps}/{row.steps} {_number(row.prompt_step_ms)}"
        left = f"{row.concurrency:14} {row.output_tokens_per_second:13.0f} {_number(row.decode_step_ms):>10} {mixed:>16}"
        print(f"{left} {row.preemptions:10} {row.floor_tokens_per_second:12.0f} {row.ratio:6.2f}", flush=True)
    return rows


def _images(bench: EngineBench, plan: _Plan, report: _Report) -> None:
    from ..benchmark.image_bench import ImageBench

    images, args = ImageBench(bench), plan.args
    rows: list[dict[str, Any]] = []
    print(f"images; then {args.image_requests} requests with one each, {args.image_output} tokens out")
    print(f"{'pixels':>14} {'tokens':>7} {'encode ms':>10} {'floor ms':>9} {'ratio':>6} {'requests s':>11} {'floor s':>8} {'ratio':>6}")
    for row in images.measure(plan.images, args.image_requests, args.image_output, args.max_num_batched_tokens):
        rows.append(asdict(row))
        left = f"{f'{row.width}x{row.height}':>14} {row.tokens:7} {row.encode_ms:10.2f} {row.encode_floor_ms:9.2f} {row.encode_ratio:6.2f}"
        print(f"{left} {row.seconds:11.3f} {row.floor_seconds:8.3f} {row.ratio:6.2f}", flush=True)
        report.put(images=rows)
    if args.profile:
        kernels = images.profile(*plan.images[0])
        report.put(image_profile=kernels)
        print(f"kernels of an image of {plan.images[0][0]}x{plan.images[0][1]}: {sum(us for *_, us in kernels):.0f} µs")
        for name, launches, us in kernels[:20]:
            print(f"  {us:9.1f} µs {launches:5} × {name[:100]}", flush=True)


def _profiles(bench: EngineBench, plan: _Plan) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for profile in bench.profile(sorted({min(plan.batches), *(batch for batch in plan.batches if batch == 64)}), plan.args.prompt):
        rows.append(asdict(profile))
        print(f"kernels of a decode step of {profile.batch}: {sum(row.us for row in profile.kernels):.0f} µs, by what each adds to it")
        for row in profile.kernels[:20]:
            each = f"{row.launches:4} × {row.us / row.launches:8.2f} µs"
            print(f"  {row.us:9.1f} µs {row.share:6.1%} {each} {row.gb_per_s:7.0f} GB/s  {row.name[:80]}", flush=True)
    return rows


def _peer(plan: _Plan, raw: dict[str, Any], dtype: str, report: _Report) -> None:
    """The peer's rows for the same batches; `speedup` is its time over ours."""
    from ..benchmark.transformers_peer import TransformersPeer

    peer = TransformersPeer(raw, dtype)
    ours: dict[tuple[Any, ...], float] = {("decode", row["batch"]): row["ms_per_step"] for row in report.values["decode"]}
    ours |= {("prefill", row["prompts"], row["length"]): row["ms"] for row in report.values["prefill"]}
    rows: dict[str, list[dict[str, Any]]] = {"decode": [], "prefill": []}
    print(peer.version)
    print(f"{'':>16} {'length':>8} {'ms':>10} {'tokens/s':>10} {'experts':>12} {'ours is':>10}")

    def add(kind: str, row: PeerRow, our_ms: float) -> None:
        rows[kind].append(asdict(row) | {"speedup": row.ms / our_ms if row.ms else None})
        report.put(peer={"name": "transformers", "version": peer.version, **rows})
        name = f"{kind}, {row.batch}"
        result = f"{row.ms:10.2f} {row.tokens_per_second:10.0f} {row.experts:>12} {row.ms / our_ms:9.2f}×" if row.ms else "out of memory"
        print(f"{name:>16} {row.length:8} {result}", flush=True)

    for row in peer.decode(plan.peer_batches, plan.args.prompt, min(_PEER_STEPS, plan.args.steps)):
        add("decode", row, ours["decode", row.batch])
    for row in peer.prefill(plan.cases):
        add("prefill", row, ours["prefill", row.batch, row.length])


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _pair(text: str, flag: str, what: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if match is None:
        raise ConfigError(f"{flag} must be {what}, got {text!r}.", param=flag.lstrip("-").replace("-", "_"))
    return int(match[1]), int(match[2])


def _cases(text: str) -> list[tuple[int, int]]:
    try:
        cases = [(int(count), int(length)) for count, _, length in (part.partition("x") for part in text.split(",") if part)]
    except ValueError:
        cases = [(0, 0)]
    if any(count < 1 or length < 1 for count, length in cases):
        raise ConfigError(f"--prefill must be prompts x length such as 1x1024,8x1024, got {text!r}.", param="prefill")
    return cases
