"""`ernie-triton bench engine`: the engine at full size with random weights, beside what this machine could do at best; serves nothing."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError

if TYPE_CHECKING:
    from ..benchmark.engine_bench import EngineBench

_PREFILL_CASES = "1x1024,1x8192,8x1024,1x32768"


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """The subcommand's flags; `args.run` is set to `run`."""
    from ..checkpoint_writer.published import MODELS

    bench = subparsers.add_parser("bench", help="measure the engine on this machine", allow_abbrev=False)
    parser = bench.add_subparsers(dest="what", required=True, metavar="WHAT").add_parser(
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
    parser.add_argument("--batch", default="1,4,16,64,128,256", metavar="N,N,…", help="decode batch sizes (default: %(default)s)")
    parser.add_argument("--prompt", type=int, default=512, help="tokens in front of the first decode step (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=64, help="decode steps to time (default: %(default)s)")
    parser.add_argument("--prefill", default=_PREFILL_CASES, metavar="NxLEN,…", help="prompts × length; empty: none (default: %(default)s)")
    parser.add_argument("--max-num-batched-tokens", type=int, default=8192, help="tokens in one prefill step (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 = greedy (default)")
    parser.add_argument("--top-p", type=float, default=1.0, help="with --temperature (default: %(default)s)")
    parser.add_argument("--profile", action="store_true", help="add the kernels of the smallest decode step and of that of 64")
    parser.add_argument("--out", metavar="FILE", help="write the numbers as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the tables; write the file. Raises `ConfigError` for flags that do not fit model or device."""
    batches, cases = _numbers(args.batch), _cases(args.prefill)
    from ernie_kernels import xp

    from ..benchmark.engine_bench import EngineBench
    from ..benchmark.roofline import measure_ceilings
    from ..checkpoint_writer.published import make_config
    from ..execution.random_model import random_model, weight_bytes
    from ..protocol import SamplingParams

    dtype = "bfloat16" if xp.on_gpu else "float32"
    if args.dtype not in (None, dtype):
        raise ConfigError(f"--dtype {args.dtype}: this device computes in {dtype}.", param="dtype")
    _, config = make_config(args.like, "pt", dtype, [setting for group in args.set for setting in group])
    ceilings = measure_ceilings()
    print(
        f"copy {ceilings.copy / 1e12:.3f} TB/s, read {ceilings.read / 1e12:.3f} TB/s, {dtype} matmul {ceilings.matmul / 1e12:.1f} TFLOP/s"
    )
    sampling = SamplingParams(max_tokens=1, temperature=args.temperature, top_p=args.top_p)
    print(f"{args.like}: {weight_bytes(config) / 1e9:.2f} GB of random weights", flush=True)
    bench = EngineBench(random_model(config), config, ceilings, sampling)
    report: dict[str, Any] = {"model": args.like, "set": args.set, "dtype": dtype, "framework": xp.name, "sampling": asdict(sampling)}
    report |= {"date": time.strftime("%Y-%m-%d %H:%M:%S"), "ceilings": asdict(ceilings)}
    report |= _measure(bench, args, batches, cases)
    if args.out:
        Path(args.out).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


def _measure(bench: EngineBench, args: argparse.Namespace, batches: list[int], cases: list[tuple[int, int]]) -> dict[str, Any]:
    """Every row is printed as soon as it is there."""
    report: dict[str, Any] = {"decode": [], "prefill": [], "profiles": []}
    print(f"{'decode, batch':>14} {'context':>8} {'ms/step':>9} {'tokens/s':>10} {'floor ms':>9} {'ratio':>6}")
    for row in bench.decode(batches, args.prompt, args.steps):
        report["decode"].append(asdict(row))
        numbers = (
            f"{row.batch:14} {row.context:8} {row.ms_per_step:9.3f} {row.tokens_per_second:10.0f} {row.floor_ms:9.3f} {row.ratio:6.2f}"
        )
        print(numbers, flush=True)
    if cases:
        print(f"{'prefill':>14} {'ms':>18} {'tokens/s':>10} {'floor ms':>9} {'ratio':>6}")
        for case in bench.prefill(cases, args.max_num_batched_tokens):
            report["prefill"].append(asdict(case))
            name = f"{case.prompts} x {case.length}"
            print(f"{name:>14} {case.ms:18.2f} {case.tokens_per_second:10.0f} {case.floor_ms:9.2f} {case.ratio:6.2f}", flush=True)
    if args.profile:
        for profile in bench.profile(sorted({min(batches), *(batch for batch in batches if batch == 64)}), args.prompt):
            report["profiles"].append(asdict(profile))
            total = sum(us for _, _, us in profile.kernels)
            print(f"kernels of a decode step of {profile.batch}: {total:.0f} µs")
            for name, calls, us in profile.kernels[:20]:
                print(f"  {us:9.1f} µs {us / total:6.1%} {calls:6.1f} × {us / calls:8.2f} µs  {name[:80]}", flush=True)
    return report


def _numbers(text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise ConfigError(f"--batch must be sizes such as 1,16,64, got {text!r}.", param="batch")
    return numbers


def _cases(text: str) -> list[tuple[int, int]]:
    try:
        cases = [(int(count), int(length)) for count, _, length in (part.partition("x") for part in text.split(",") if part)]
    except ValueError:
        cases = [(0, 0)]
    if any(count < 1 or length < 1 for count, length in cases):
        raise ConfigError(f"--prefill must be prompts x length such as 1x1024,8x1024, got {text!r}.", param="prefill")
    return cases
