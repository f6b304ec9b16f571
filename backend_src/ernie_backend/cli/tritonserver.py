"""Where tritonserver is and what it needs around it: program, Python backend, stub, libraries; starts nothing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError
from .patient_backend import put_library
from .written_files import link, writing

CONTAINER_ROOT = Path("/opt/tritonserver")
STUB_NAME = "triton_python_backend_stub"
LIBRARY_NAME = "libtriton_python.so"
PYTHON_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
LIBPYTHON_NAME = f"libpython{PYTHON_VERSION}.so.1.0"

TRITON_STACK_BYTES = 256 * 2**20
"""tritonserver 2.51 puts an HTTP body on a thread's stack: 5 MB end it with a segmentation fault at the usual 8 MiB; 60 MB pass."""


@dataclass(frozen=True)
class Installation:
    """A tritonserver that can run our models; every path exists."""

    program: Path
    backend: Path
    """The folder of the Python backend: its library and `triton_python_backend_utils.py`."""
    stub: Path
    """The program that runs a model's Python; built for exactly one Python version."""
    library_folders: tuple[Path, ...]


def find_installation(given: str | None = None) -> Installation:
    """`given` (program or root folder), else /opt/tritonserver, else the nvidia-pytriton wheel; `ConfigError` says what is missing."""
    program = _find_program(given)
    root = program.parent.parent
    backend = root / "backends" / "python"
    if not (backend / LIBRARY_NAME).is_file():
        raise ConfigError(f"tritonserver at {str(root)!r} has no Python backend in backends/python.", param="tritonserver")
    of_this_version = root / "python_backend_stubs" / PYTHON_VERSION / STUB_NAME
    stub = of_this_version if of_this_version.is_file() else backend / STUB_NAME
    _check_stub(stub)
    folders = (root / "lib", root.parent.parent / "nvidia_pytriton.libs")
    return Installation(program, backend, stub, tuple(folder for folder in folders if folder.is_dir()))


def _find_program(given: str | None) -> Path:
    if given is not None:
        path = Path(given).expanduser().resolve()
        program = path / "bin" / "tritonserver" if path.is_dir() else path
        if not program.is_file():
            raise ConfigError(f"--tritonserver: {given!r} is neither a program nor a folder with bin/tritonserver.", param="tritonserver")
        return program
    program = CONTAINER_ROOT / "bin" / "tritonserver"
    if program.is_file():
        return program
    wheel = importlib.util.find_spec("pytriton")  # finds without importing
    for folder in (wheel.submodule_search_locations or ()) if wheel else ():
        program = Path(folder) / "tritonserver" / "bin" / "tritonserver"
        if program.is_file():
            return program
    raise ConfigError(
        f"No tritonserver: neither in {str(CONTAINER_ROOT)!r} nor from the wheel nvidia-pytriton. "
        "Install the [server] extra (pip install 'ernie-triton[server]'), or give --tritonserver PATH.",
        param="tritonserver",
    )


def _check_stub(stub: Path) -> None:
    if not stub.is_file():
        raise ConfigError(f"tritonserver's Python backend has no stub for Python {PYTHON_VERSION} ({str(stub)!r}).", param="tritonserver")
    linked = re.search(rb"libpython(3\.\d+)\.so", stub.read_bytes())
    version = linked[1].decode() if linked else PYTHON_VERSION
    if version != PYTHON_VERSION:
        raise ConfigError(
            f"tritonserver's stub {str(stub)!r} is built for Python {version}, this is Python {PYTHON_VERSION}. "
            f"Make the virtual environment with Python {version}.",
            param="tritonserver",
        )


def find_libpython() -> Path | None:
    """The shared library of this Python version, which the stub links; None if only a static Python is there."""
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    own = (sysconfig.get_config_var("LIBDIR") or "", f"{sys.base_prefix}/lib")
    candidates = [Path(folder) / LIBPYTHON_NAME for folder in (*own, f"/usr/lib/{multiarch}", "/usr/lib", "/usr/lib64", "/usr/local/lib")]
    return next((path for path in candidates if path.is_file()), None)


def check_python_for_stub() -> None:
    """What the 24.10 stub needs of this environment (`ConfigError` says how to get it): a shared libpython and numpy 1.x."""
    if find_libpython() is None:
        raise ConfigError(
            f"{LIBPYTHON_NAME} is missing, which tritonserver's Python backend links. "
            f"Debian and Ubuntu: apt-get install libpython{PYTHON_VERSION}; pyenv: build Python with PYTHON_CONFIGURE_OPTS=--enable-shared."
        )
    version = importlib.metadata.version("numpy")
    if int(version.split(".")[0]) >= 2:
        raise ConfigError(f"numpy {version} is installed; with it the Python backend hands over empty tensors. Install 'numpy>=1.26,<2'.")


def assemble_backends(installation: Installation, folder: Path) -> Path:
    """Fill `folder` so that it can be the `--backend-directory`: the Python backend and the stub that fits this Python, side by side."""
    backend = folder / "python"
    with writing(folder):
        backend.mkdir(parents=True, exist_ok=True)
        for source in (*installation.backend.iterdir(), installation.stub):
            if source.name == LIBRARY_NAME:
                put_library(source, backend / source.name)
            elif source.name != "__pycache__":
                link(source, backend / source.name)
    return folder


def library_path(installation: Installation, inherited: str = "") -> str:
    """LD_LIBRARY_PATH for tritonserver and its stubs."""
    folders = [str(folder) for folder in installation.library_folders]
    libpython = find_libpython()
    if libpython is not None and not str(libpython).startswith("/usr/lib"):  # those the loader searches by itself
        folders.append(str(libpython.parent))
    return ":".join([*folders, *filter(None, [inherited])])


def search_path(inherited: str) -> str:
    """PATH for tritonserver: the stub takes its Python environment from the first `python3` on it."""
    return ":".join([str(Path(sys.executable).parent), *filter(None, [inherited])])


def server_environment(installation: Installation, inherited: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment in which tritonserver finds its libraries and its stubs find this virtual environment."""
    return {
        **inherited,
        "LD_LIBRARY_PATH": library_path(installation, inherited.get("LD_LIBRARY_PATH", "")),
        "PATH": search_path(inherited.get("PATH", "")),
    }
