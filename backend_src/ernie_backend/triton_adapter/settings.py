"""Where a Triton model of ours finds its configuration: ERNIE_CONFIG, else ernie_engine/config.pbtxt. Decides no value itself."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from .. import log_format
from ..config import EngineConfig
from ..errors import ConfigError
from ..tracing import Tracer, check_installed, traces_url

ENVIRONMENT_VARIABLE = "ERNIE_CONFIG"
ENGINE_MODEL = "ernie_engine"


def set_up_process(settings: EngineConfig, process: str) -> Tracer | None:
    """What every process of ours does before it works: its logs get their form. What its spans go to, if they go anywhere.

    Raises `ConfigError` if spans are wanted and their library is missing.
    """
    log_format.install(settings.log_format, process)
    if settings.otlp_traces_endpoint is None:
        return None
    check_installed()
    return Tracer(traces_url(settings.otlp_traces_endpoint), process)


def load_settings(args: Mapping[str, str]) -> EngineConfig:
    """The configuration that all three models share; `args` is what Triton gives to `initialize`. Raises `ConfigError`."""
    check_numpy()
    path = os.environ.get(ENVIRONMENT_VARIABLE)
    if path:
        return EngineConfig.from_json_file(path)
    return EngineConfig.from_mapping(read_parameters(repository_of(args) / ENGINE_MODEL / "config.pbtxt"))


def read_parameters(path: Path) -> dict[str, str]:
    """The `parameters` of a config.pbtxt, without those in capitals, which are the Python backend's own."""
    from google.protobuf import text_format  # here: importing tritonclient's messages takes 0.3 s and is needed without ERNIE_CONFIG only
    from tritonclient.grpc import model_config_pb2

    config = model_config_pb2.ModelConfig()
    try:
        text_format.Parse(path.read_text(encoding="utf-8"), config)
    except (OSError, ValueError, text_format.ParseError) as error:
        raise ConfigError(f"Cannot read the engine's settings from {str(path)!r}: {error}. Or set {ENVIRONMENT_VARIABLE}.") from None
    return {name: parameter.string_value for name, parameter in config.parameters.items() if not name.isupper()}


def check_numpy() -> None:
    """numpy 2 makes tritonserver 2.51's Python backend hand over empty tensors, without a word: refuse to start."""
    if int(np.__version__.split(".")[0]) >= 2:
        raise ConfigError(f"numpy {np.__version__} is installed; Triton's Python backend needs numpy below 2: pip install 'numpy<2'.")


def repository_of(args: Mapping[str, str]) -> Path:
    """The model repository; Triton's `model_repository` names the model's own folder in it."""
    folder = Path(args["model_repository"])
    return folder.parent if folder.name == args["model_name"] else folder
