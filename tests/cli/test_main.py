"""The command as a user meets it: exit statuses, one-line errors, doctor's lines, the exports of `env`."""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path

import pytest

from ernie_backend.cli import demo_model, doctor
from ernie_backend.cli.__main__ import main
from ernie_backend.cli.perf import find_perf_analyzer, input_data
from ernie_backend.errors import ConfigError


def test_unknown_flag_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["serve", "--model", "m", "--max_model_lem", "4"])
    assert caught.value.code == 2
    assert "unknown flag --max-model-lem. Did you mean --max-model-len?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("config", "status", "message"),
    [
        (None, 2, "models are not downloaded"),
        ("", 1, "is not valid JSON"),
        ('{"architectures": ["LlamaForCausalLM"]}', 1, "architecture 'LlamaForCausalLM' is not supported"),
    ],
)
def test_a_wrong_model_folder_ends_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], config: str | None, status: int, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if config is not None:
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "config.json").write_text(config)
    assert main(["serve", "--model", "model"]) == status
    error = capsys.readouterr().err
    assert error.startswith("ernie-triton serve: error: ") and message in error
    assert len(error.splitlines()) == 1


def test_flags_that_do_not_fit_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 4096}
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["Ernie4_5ForCausalLM"], **sizes}))
    assert main(["serve", "--model", str(tmp_path), "--max-model-len", "9999"]) == 2
    assert "--max-model-len: max_model_len (9999) exceeds the model's context of 4096 tokens." in capsys.readouterr().err


@pytest.mark.parametrize("more", [(), ("--max-model-len", "65")])
def test_too_few_blocks_end_before_anything_starts(more: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--num-gpu-blocks-override", "1", *more, "--tritonserver", "nowhere"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "--num-gpu-blocks-override: num_blocks (1 of 64 tokens) must hold at least one sequence of max_model_len" in error
    assert main(["serve", "--num-gpu-blocks-override", "2", "--max-model-len", "65", "--tritonserver", "nowhere"]) == 2
    assert "--tritonserver" in capsys.readouterr().err.splitlines()[-1], "two blocks hold 65 tokens"


def test_a_folder_without_weights_names_the_flag_that_needs_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ("num_hidden_layers=2", "hidden_size=64", "num_attention_heads=1", "num_key_value_heads=1", "head_dim=64")
    folder = str(tmp_path / "model")
    assert main(["random-checkpoint", "--like", "ERNIE-4.5-0.3B", "--out", folder, "--no-weights", "--set", *sizes]) == 0
    capsys.readouterr()
    no_program = ("--tritonserver", "nowhere")  # where the start ends if the weights are not asked for
    assert main(["serve", "--model", folder, *no_program]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"ernie-triton serve: error: The model folder {folder!r} holds no weights") and "--load-format dummy" in error
    assert main(["serve", "--model", folder, "--load-format", "dummy", *no_program]) == 2
    assert "--tritonserver" in capsys.readouterr().err.splitlines()[-1]


def test_without_a_model_the_demo_model_is_served(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--max-model-len", "9999"]) == 2
    said, error = capsys.readouterr().err.splitlines()
    assert said == "ernie-triton: No --model given: serving the demo model, which is tiny. Another one: --model DIR."
    assert "max_model_len (9999) exceeds the model's context of 4096 tokens." in error


def test_the_demo_models_limit_is_that_of_its_pictures() -> None:
    args = argparse.Namespace(model=None, limit_mm_per_prompt=None)
    assert demo_model.choose(args) and args.limit_mm_per_prompt == {"image": 4, "video": 1}
    assert (Path(args.model) / "config.json").is_file()
    given = argparse.Namespace(model=None, limit_mm_per_prompt={"image": 2})
    demo_model.choose(given)
    assert given.limit_mm_per_prompt == {"image": 2}
    other = argparse.Namespace(model="m", limit_mm_per_prompt=None)
    assert demo_model.choose(other) == [] and other.limit_mm_per_prompt is None


def test_doctor_has_one_line_for_each_thing(capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["doctor"])
    lines = capsys.readouterr().out.splitlines()
    subjects = [line[9:27].strip() for line in lines]
    expected = ("tritonserver", "stub", "libpython", "numpy", "framework", "images and videos", "GPU", "shared memory", "perf_analyzer")
    for subject in (*expected, "port 8180"):
        assert subjects.count(subject) == 1
    assert status == (1 if any(line.startswith("missing") for line in lines) else 0)


def test_doctor_says_what_to_do_about_a_missing_tritonserver(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--tritonserver", str(tmp_path)]) == 1
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("missing  tritonserver"))
    assert "neither a program nor a folder with bin/tritonserver" in line


def test_doctor_refuses_numpy_2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda package: "2.1.0")
    findings = {finding.subject: finding for finding in doctor.examine()}
    assert not findings["numpy"].ok and "numpy>=1.26,<2" in findings["numpy"].text


def test_env_makes_a_tritonserver_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "--out", str(tmp_path / "with space")]) == 0
    exports = capsys.readouterr().out
    assert all(line.startswith("export ") for line in exports.splitlines())
    script = f"{exports}\ncommand -v tritonserver; tritonserver --help 2>&1 | head -1; command -v python3"
    answer = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout.splitlines()
    assert answer[0] == str(tmp_path / "with space" / "bin" / "tritonserver")
    assert answer[1].startswith("Usage: tritonserver")
    backend = tmp_path / "with space" / "backends" / "python"
    assert {"libtriton_python.so", "triton_python_backend_stub", "triton_python_backend_utils.py"} <= {
        path.name for path in backend.iterdir()
    }


def test_env_says_where_it_cannot_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["env", "--out", str(tmp_path / "file")]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("ernie-triton env: error: Nothing can be written to ")
    assert len(captured.err.splitlines()) == 1


def test_perf_inputs_are_what_perf_analyzer_reads() -> None:
    (request,) = json.loads(input_data("hello", 8))["data"]
    assert request["text_input"] == ["hello"] and request["stream"] == [True]
    assert json.loads(request["sampling_parameters"][0]) == {"max_tokens": 8, "ignore_eos": True, "temperature": 0}


def test_perf_names_the_libraries_that_are_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"No perf_analyzer at .*`make perf` installs it"):
        find_perf_analyzer(str(tmp_path / "perf_analyzer"))
    program = tmp_path / "bin" / "ldd"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'libb64.so.0d => not found'\n")
    program.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(program.parent))
        with pytest.raises(ConfigError, match=r"perf_analyzer needs libb64\.so\.0d.*apt-get install libb64-0d"):
            find_perf_analyzer(str(program))


def test_doctor_names_what_models_that_see_miss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda package: None if package in ("av", "numpy") else "1.0")
    finding = next(finding for finding in doctor.examine() if finding.subject == "images and videos")
    assert not finding.ok and not finding.required and "no av: pip install 'ernie-triton[media]'" in finding.text


@pytest.mark.parametrize("arguments", [[], ["bench"], ["random-checkpoint"]])
def test_without_arguments_the_usage_is_told(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2 and "usage: ernie-triton" in capsys.readouterr().err


def test_a_word_that_belongs_to_no_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["serve", "extra"])
    assert "'extra' belongs to no flag" in capsys.readouterr().err
