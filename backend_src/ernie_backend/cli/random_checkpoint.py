"""`ernie-triton random-checkpoint`: a complete model folder in a published layout with random weights; knows no engine."""

from __future__ import annotations

import argparse
import json
import re
import shutil
from pathlib import Path

from ..errors import ConfigError
from ..execution.safetensors_file import INDEX_FILE
from ..flag_parsing import integer

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
SET_HELP = "change a key of config.json: --set num_hidden_layers=2 vision_config.depth=2"
_OTHER_FILES_BYTES = 16 * 10**6
"""Room for the tokenizer, the index and the configuration."""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """The subcommand's flags; `args.run` is set to `run`."""
    from ..checkpoint_writer.published import MODELS

    parser = subparsers.add_parser(
        "random-checkpoint",
        help="write a model folder with random weights, for trying out and for measuring",
        description="Write a complete ERNIE-4.5 model folder with random weights: real sizes, names and layout, nonsense for answers.",
    )
    parser.add_argument("--like", required=True, choices=tuple(MODELS), help="the published model whose config.json is taken")
    parser.add_argument("--flavour", choices=("pt", "paddle"), default="pt", help="the published layout (default: pt)")
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder to write; it must be empty or absent")
    parser.add_argument(
        "--set",
        action="append",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="change a key of config.json: --set num_hidden_layers=2 vision_config.depth=2",
    )
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="how weights are stored (default: bfloat16)")
    parser.add_argument("--seed", type=integer, default=0, help="both flavours of one seed are the same model (default: 0)")
    parser.add_argument("--max-shard-size", default="5GB", metavar="SIZE", help="largest file, such as 500MB or 5GB (default: 5GB)")
    no_weights = "write config and tokenizer alone, which `serve --load-format dummy` fills with random weights"
    parser.add_argument("--no-weights", action="store_true", help=no_weights)
    parser.add_argument("--force", action="store_true", help="replace a checkpoint that is already in DIR")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the folder. Raises `ConfigError` before anything is written if a value, the folder or the disk does not suit."""
    from ..checkpoint_writer.chat_templates import template_like
    from ..checkpoint_writer.published import GENERATION_CONFIG, image_start, make_config, preprocessor_config
    from ..checkpoint_writer.random_weights import RandomWeights
    from ..checkpoint_writer.tokenizer import check_vocab_size, write_tokenizer

    config, model = make_config(args.like, args.flavour, args.dtype, [setting for group in args.set for setting in group])
    check_vocab_size(model.vocab_size)
    if args.seed < 0:
        raise ConfigError(f"--seed must be at least 0, got {args.seed}.", param="seed")
    max_shard_bytes = parse_size(args.max_shard_size)
    random_weights = RandomWeights(model, args.flavour, args.dtype, args.seed)
    folder = Path(args.out).expanduser()
    weight_bytes = 0 if args.no_weights else random_weights.total_bytes()
    _check_disk(folder, weight_bytes + _OTHER_FILES_BYTES)
    _prepare_folder(folder, args.force)
    write_tokenizer(folder, model.vocab_size, template_like(args.like), image_start(args.like))
    files = [] if args.no_weights else random_weights.write(folder, max_shard_bytes)
    special = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    _write_json(folder / "generation_config.json", GENERATION_CONFIG | special)
    preprocessor = preprocessor_config(config)
    if preprocessor is not None:
        _write_json(folder / "preprocessor_config.json", preprocessor)
    _write_json(folder / "config.json", config)  # last: without it the folder is not taken for a model
    content = f"{weight_bytes / 1e9:.2f} GB, files: {', '.join(files)}" if files else "no weights: serve it with --load-format dummy"
    print(f"{folder}: {args.like} in the {args.flavour} layout, {content}")
    return 0


def parse_size(text: str) -> int:
    """`5GB` → 5,000,000,000. Raises `ConfigError`."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    unit = _UNITS.get(match[2].upper()) if match else None
    if match is None or unit is None or float(match[1]) * unit < 1:
        raise ConfigError(f"--max-shard-size must be a size such as 500MB or 5GB, got {text!r}.", param="max_shard_size")
    return int(float(match[1]) * unit)


def _check_disk(folder: Path, needed: int) -> None:
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise ConfigError(f"The checkpoint needs {needed / 1e9:.2f} GB, but {str(existing)!r} has {free / 1e9:.2f} GB free.", param="out")


def _prepare_folder(folder: Path, force: bool) -> None:
    """Make the folder; with `force`, remove an earlier checkpoint's files so that no stale shard stays, and nothing else."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--out {str(folder)!r} is not a folder.", param="out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()) and not force:
            raise ConfigError(
                f"--out {str(folder)!r} is not empty. Choose another, or pass --force to replace the checkpoint.", param="out"
            )
        for path in (folder / "config.json", folder / INDEX_FILE, *folder.glob("model*.safetensors")):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {str(folder)!r} cannot be written: {error.strerror}.", param="out") from None


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
