"""`ernie-triton env`: what a shell needs so that plain `tritonserver --model-repository model_repository` runs our models."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

from .tritonserver import TRITON_STACK_BYTES, assemble_backends, check_python_for_stub, find_installation, library_path, search_path
from .written_files import put, writing


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("env", help="print export lines for running tritonserver by hand", allow_abbrev=False)
    parser.add_argument(
        "--tritonserver", metavar="PATH", help="program or root folder (default: /opt/tritonserver, else the nvidia-pytriton wheel)"
    )
    parser.add_argument(
        "--out", metavar="DIR", help="where to put the `tritonserver` command and the backend (default: inside the environment)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print lines for `eval "$(ernie-triton env)"`. Running it again changes nothing."""
    installation = find_installation(args.tritonserver)
    check_python_for_stub()
    folder = Path(args.out or Path(sys.prefix) / "share" / "ernie-triton").resolve()
    backends = assemble_backends(installation, folder / "backends")
    command = folder / "bin" / "tritonserver"
    start = f'exec {shlex.quote(str(installation.program))} --backend-directory {shlex.quote(str(backends))} "$@"'
    text = f"#!/bin/sh\nulimit -S -s {TRITON_STACK_BYTES // 1024} 2>/dev/null\n{start}\n"

    def make(new: Path) -> None:
        new.write_text(text, encoding="utf-8")
        new.chmod(0o755)

    with writing(folder):
        command.parent.mkdir(parents=True, exist_ok=True)
        put(command, make)
    print(f"export PATH={shlex.quote(str(command.parent) + ':' + search_path(''))}:$PATH")
    print(f"export LD_LIBRARY_PATH={shlex.quote(library_path(installation, os.environ.get('LD_LIBRARY_PATH', '')))}")
    return 0
