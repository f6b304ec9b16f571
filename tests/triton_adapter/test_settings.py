"""Where the configuration comes from, and what the repository's files say of it."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from ernie_backend.config import EngineConfig
from ernie_backend.errors import ConfigError
from ernie_backend.triton_adapter.settings import load_settings, read_parameters

REPOSITORY = Path(__file__).parents[2] / "model_repository"


def args(repository: Path, *, as_triton_gives_it: bool = True) -> dict[str, str]:
    folder = repository / "ernie_preprocess" if as_triton_gives_it else repository
    return {"model_repository": str(folder), "model_name": "ernie_preprocess"}


def write_repository(folder: Path, parameters: str) -> Path:
    (folder / "ernie_engine").mkdir(parents=True)
    (folder / "ernie_engine" / "config.pbtxt").write_text(f'name: "ernie_engine"\n{parameters}', encoding="utf-8")
    return folder


def parameter(key: str, value: str) -> str:
    return f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}\n'


@pytest.mark.parametrize("as_triton_gives_it", [True, False])
def test_from_the_parameters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_triton_gives_it: bool) -> None:
    monkeypatch.delenv("ERNIE_CONFIG", raising=False)
    given = (
        parameter("model", "some/model")
        + parameter("max_num_seqs", "3")
        + parameter("seed", "")
        + parameter("FORCE_CPU_ONLY_INPUT_TENSORS", "no")
    )
    repository = write_repository(tmp_path, given)
    assert load_settings(args(repository, as_triton_gives_it=as_triton_gives_it)) == EngineConfig(model="some/model", max_num_seqs=3)


def test_the_named_file_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "engine.json"
    file.write_text(json.dumps({"model": "from the file", "block_size_tokens": 16}), encoding="utf-8")
    monkeypatch.setenv("ERNIE_CONFIG", str(file))
    assert load_settings(args(write_repository(tmp_path, parameter("model", "other")))) == EngineConfig(
        model="from the file", block_size_tokens=16
    )


def test_as_shipped_it_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ERNIE_CONFIG", raising=False)
    with pytest.raises(ConfigError, match=r"No model is configured\. Set `model` .* ERNIE_CONFIG"):
        load_settings(args(REPOSITORY))


@pytest.mark.parametrize("content", ["parameters { key: ", parameter("modle", "x")])
def test_a_broken_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    monkeypatch.delenv("ERNIE_CONFIG", raising=False)
    with pytest.raises(ConfigError, match=r"Cannot read the engine's settings|Unknown engine setting 'modle'"):
        load_settings(args(write_repository(tmp_path, content)))


def test_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ERNIE_CONFIG", raising=False)
    with pytest.raises(ConfigError, match="Or set ERNIE_CONFIG"):
        load_settings(args(tmp_path))


def test_numpy_2_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(np, "__version__", "2.1.0")
    with pytest.raises(ConfigError, match=r"numpy 2\.1\.0 is installed"):
        load_settings(args(tmp_path))


def test_every_setting_is_a_parameter_of_the_engine() -> None:
    parameters = read_parameters(REPOSITORY / "ernie_engine" / "config.pbtxt")
    assert set(parameters) == {field.name for field in fields(EngineConfig)}
    assert not any(parameters.values()), "all defaults"
