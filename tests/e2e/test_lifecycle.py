"""How `serve` starts and ends, with a real tritonserver and a toy model in place of the ensemble."""

from __future__ import annotations

import ctypes
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import tritonclient.grpc as grpc_client

from ernie_backend.cli.background import free_ports
from ernie_backend.cli.background import running_server as start_server
from ernie_backend.errors import ConfigError
from tests.e2e.server import descendants, leftovers, running_server, wait_until_gone

TOY_CONFIG = """
name: "ernie"
backend: "python"
max_batch_size: 0
input [{name: "x" data_type: TYPE_INT32 dims: [-1]}]
output [{name: "y" data_type: TYPE_INT32 dims: [-1]}]
instance_group [{kind: KIND_CPU count: 1}]
"""
TOY_MODEL = """
import json, os
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        with open(os.environ["ERNIE_CONFIG"]) as file:
            config = json.load(file)
        if config["seed"] == 666:
            raise pb_utils.TritonModelException("model.safetensors: tensor 'a.b' has shape [2], expected [3].")
        if config["seed"] == 667:
            os._exit(3)
        if config["seed"] == 668 and not os.path.exists(config["model"] + "/aborted"):
            open(config["model"] + "/aborted", "w").close()
            os.write(2, b"terminate called after throwing an instance of 'boost::interprocess::lock_exception'\\n")
            os.kill(os.getppid(), 6)

    def execute(self, requests):
        tensors = [pb_utils.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", tensor + 1)]) for tensor in tensors]
"""
MODEL_CONFIG = {
    "architectures": ["Ernie4_5ForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model folder that passes the first checks, and a repository whose `ernie` adds one."""
    root = tmp_path_factory.mktemp("toy")
    model, repository = root / "model", root / "repository"
    (repository / "ernie" / "1").mkdir(parents=True)
    (repository / "ernie" / "config.pbtxt").write_text(TOY_CONFIG)
    (repository / "ernie" / "1" / "model.py").write_text(TOY_MODEL)
    model.mkdir()
    (model / "config.json").write_text(json.dumps(MODEL_CONFIG))
    return {"model": model, "repository": repository}


def test_serves_and_leaves_nothing_though_clients_stay_connected(toy: dict[str, Path]) -> None:
    client, answers = requests.Session(), queue.SimpleQueue[Any]()
    with running_server(toy["model"], model_repository=toy["repository"]) as server:
        body = {"inputs": [{"name": "x", "datatype": "INT32", "shape": [3], "data": [1, 2, 3]}]}
        answer = client.post(f"{server.triton_url}/v2/models/ernie/infer", json=body, timeout=10).json()
        assert answer["outputs"][0]["data"] == [2, 3, 4]
        for path in ("/v2/systemsharedmemory/status", "/v2/logging"):
            assert "restricted" in client.get(server.triton_url + path, timeout=10).text
        assert client.post(server.triton_url + "/v2/repository/models/ernie/unload", timeout=10).status_code == 403
        assert "nv_inference_count" in client.get(server.metrics_url, timeout=10).text
        processes = descendants(server.process.pid)
        assert len(processes) >= 3, "tritonserver, its stub, front end"
        if _may_reach_into(server.process.pid):  # else tritonserver waits for the end of this stream until it is killed
            stream = grpc_client.InferenceServerClient(server.triton_grpc)
            stream.start_stream(lambda result, error: answers.put(result))
            stream.async_stream_infer("ernie", [grpc_client.InferInput("x", [1], "INT32").set_data_from_numpy(np.array([7], np.int32))])
            assert answers.get(timeout=10).as_numpy("y").tolist() == [8]
    assert "killed" not in "".join(server.log)
    client.close()


@pytest.mark.parametrize(
    ("seed", "expected"), [(666, "ernie did not load: model.safetensors: tensor 'a.b' has shape [2], expected [3]."), (667, "ernie")]
)
def test_failed_load_is_told_and_ends_everything(toy: dict[str, Path], seed: int, expected: str) -> None:
    flags = ["--model-repository", str(toy["repository"]), "--seed", str(seed)]
    with pytest.raises(ConfigError, match="exit code 1") as caught, start_server(str(toy["model"]), flags):
        pass
    assert expected in caught.value.message.splitlines()[-1]
    assert not leftovers()


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        (b"bin/tritonserver", "tritonserver has ended (killed by SIGKILL)"),
        (b"triton_python_backend_stub", "the process of ernie has died"),
        (b"ernie_openai", "The front end has ended (killed by SIGKILL)"),
    ],
)
def test_without_restarts_the_death_of_one_process_ends_all(toy: dict[str, Path], program: bytes, expected: str) -> None:
    flags = ["--model-repository", str(toy["repository"]), "--shutdown-grace-seconds", "2", "--max-restarts", "0"]
    with start_server(str(toy["model"]), flags) as server:
        processes = descendants(server.process.pid)
        os.kill(next(pid for pid in processes if program in _command(pid)), signal.SIGKILL)
        assert server.process.wait(30) == 1
    assert any(expected in line for line in server.log), server.log
    assert not wait_until_gone(processes, 5)
    assert not leftovers()


def test_a_tritonserver_that_aborts_by_itself_while_it_loads_is_started_again(toy: dict[str, Path]) -> None:
    """What tritonserver 2.51 does now and then on an overloaded machine."""
    with running_server(toy["model"], model_repository=toy["repository"], seed=668) as server:
        assert sum("restarting tritonserver" in line for line in server.log) >= 1, server.log
    (toy["model"] / "aborted").unlink()


def test_a_server_that_fails_again_and_again_ends(toy: dict[str, Path]) -> None:
    """A restart that does not get ready counts, too: here the model's process ends while it loads."""
    flags = ["--model-repository", str(toy["repository"]), "--shutdown-grace-seconds", "2", "--max-restarts", "2"]
    with start_server(str(toy["model"]), flags) as server:
        processes = descendants(server.process.pid)
        (config,) = _files(processes, b"engine.json")
        config.write_text(config.read_text().replace('"seed": 0', '"seed": 667'))
        os.kill(next(pid for pid in processes if b"triton_python_backend_stub" in _command(pid)), signal.SIGKILL)
        assert server.process.wait(60) == 1
    assert sum("restarting tritonserver" in line for line in server.log) == 2, server.log
    assert "ernie" in server.log[-1] or "tritonserver" in server.log[-1], server.log
    assert any("--max-restarts 2 allows no more restarts" in line for line in server.log), server.log
    assert not wait_until_gone(processes, 5)
    assert not leftovers()


def test_kill_9_takes_the_children_along_and_the_next_start_cleans_up(toy: dict[str, Path]) -> None:
    with start_server(str(toy["model"]), ["--model-repository", str(toy["repository"])]) as server:
        processes = descendants(server.process.pid)
        server.process.kill()
        server.process.wait()
        assert not wait_until_gone(processes, 15)
    with running_server(toy["model"], model_repository=toy["repository"]):
        assert not leftovers()


def test_sigterm_while_loading_is_a_clean_end(toy: dict[str, Path]) -> None:
    command = [sys.executable, "-m", "ernie_backend.cli", "serve", "--model", str(toy["model"]), "--host", "127.0.0.1"]
    command += ["--model-repository", str(toy["repository"])]
    for flag, port in zip(("--port", "--triton-http-port", "--triton-grpc-port", "--metrics-port"), free_ports(4), strict=True):
        command += [flag, str(port)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None and "Starting tritonserver" in process.stderr.readline()
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0, process.stderr.read()
    assert not leftovers()


def test_a_used_port_is_named_before_anything_starts(toy: dict[str, Path]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        flags = ["--model-repository", str(toy["repository"]), "--triton-grpc-port", str(port)]
        with (
            pytest.raises(ConfigError, match=f"--triton-grpc-port {port} cannot be used on 127.0.0.1") as caught,
            start_server(str(toy["model"]), flags),
        ):
            pass
    assert "exit code 2" in caught.value.message
    assert "Starting" not in caught.value.message


def _may_reach_into(pid: int) -> bool:
    """Whether the kernel lets us copy another process's files (`cli/idle_connections.py`)."""
    process = os.pidfd_open(pid)
    copy = ctypes.CDLL(None).syscall(438, process, 1, 0)
    for descriptor in {process, copy} - {-1}:
        os.close(descriptor)
    return copy >= 0


def _files(processes: set[int], name: bytes) -> set[Path]:
    """Those of this name that the processes' environments speak of."""
    found = set()
    for pid in processes:
        for entry in (Path("/proc") / str(pid) / "environ").read_bytes().split(b"\0"):
            if entry.endswith(b"/" + name):
                found.add(Path(os.fsdecode(entry.partition(b"=")[2])))
    return found


def _command(pid: int) -> bytes:
    """Program and the module that `-m` names; further arguments mention other programs' paths."""
    return b" ".join((Path("/proc") / str(pid) / "cmdline").read_bytes().split(b"\0")[:3])
