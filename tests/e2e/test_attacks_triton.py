"""What reaches Triton's own ports: administration is refused on both faces, forged tensors are, and only this machine gets there."""

from __future__ import annotations

import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import tritonclient.grpc as grpc_client
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from ernie_backend.cli.background import RunningServer
from ernie_backend.relay import SOCKET_NAME
from tests.e2e.bystander import Bystander
from tests.e2e.observe import wait_until_idle
from tests.e2e.server import descendants


@pytest.fixture(scope="module")
def bystander(server: RunningServer) -> Iterator[Bystander]:
    with Bystander(server) as streaming:
        yield streaming
    wait_until_idle(server)


@pytest.fixture(autouse=True)
def undisturbed(bystander: Bystander) -> Iterator[None]:
    yield
    bystander.check()


OVER_HTTP: list[tuple[str, str, Any]] = [
    ("POST", "/v2/systemsharedmemory/region/x/register", {"key": "/x", "offset": 0, "byte_size": 8}),
    ("POST", "/v2/systemsharedmemory/unregister", None),
    ("GET", "/v2/systemsharedmemory/status", None),
    ("POST", "/v2/cudasharedmemory/region/x/register", {"raw_handle": {"b64": "AAAA"}, "device_id": 0, "byte_size": 8}),
    ("GET", "/v2/cudasharedmemory/status", None),
    ("POST", "/v2/repository/index", {}),
    ("POST", "/v2/repository/models/ernie/load", {}),
    ("POST", "/v2/repository/models/ernie/load", {"parameters": {"config": "{}", "file:../../x/1/model.py": "AAAA"}}),
    ("POST", "/v2/repository/models/ernie_engine/unload", {}),
    ("GET", "/v2/logging", None),
    ("POST", "/v2/logging", {"log_file": "/tmp/ernie-triton-attack"}),
    ("GET", "/v2/trace/setting", None),
    ("POST", "/v2/trace/setting", {"trace_file": "/tmp/ernie-triton-attack", "trace_level": ["TENSORS"]}),
    ("POST", "/v2/models/ernie/trace/setting", {"trace_level": ["TENSORS"]}),
]
OVER_GRPC: dict[str, tuple[Any, ...]] = {
    "register_system_shared_memory": ("x", "/x", 8),
    "unregister_system_shared_memory": (),
    "get_system_shared_memory_status": (),
    "register_cuda_shared_memory": ("x", b"a" * 64, 0, 8),
    "get_cuda_shared_memory_status": (),
    "get_model_repository_index": (),
    "load_model": ("ernie",),
    "unload_model": ("ernie_engine",),
    "get_log_settings": (),
    "update_log_settings": ({"log_file": "/tmp/ernie-triton-attack"},),
    "get_trace_settings": (),
    "update_trace_settings": ("ernie", {"trace_level": ["TENSORS"]}),
}
V4, V4_IN_V6 = "0100007F", "0000000000000000FFFF00000100007F"
"""127.0.0.1, as the kernel writes it."""
HEADER = "ernie-administration"


def test_nobody_administers(server: RunningServer) -> None:
    client = grpc_client.InferenceServerClient(server.triton_grpc)
    for method, path, body in OVER_HTTP:
        answer = httpx.request(method, server.triton_url + path, json=body, timeout=30)
        assert answer.status_code == 403 and "restricted" in answer.text, (method, path, answer.text)
    for name, arguments in OVER_GRPC.items():
        with pytest.raises(InferenceServerException, match="restricted"):
            getattr(client, name)(*arguments)
    client.close()
    assert not Path("/tmp/ernie-triton-attack").exists()


def test_nor_does_who_can_read_the_process_list(server: RunningServer) -> None:
    """tritonserver's flags stand there with the secret in them; it ends in what no header can hold."""
    secret = _secret_of_process_list(server).strip()
    assert len(secret) == 32
    host, port = server.triton_url.removeprefix("http://").split(":")
    for end in ("", " ", "\n", "\r\n ", "\r\n\n", "%0A", "\\n"):
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            headers = f"Host: x\r\nConnection: close\r\nContent-Length: 2\r\n{HEADER}: {secret}{end}\r\n"
            connection.sendall(f"POST /v2/repository/index HTTP/1.1\r\n{headers}\r\n{{}}".encode())
            assert connection.recv(4096).partition(b"\r\n")[0] in (b"HTTP/1.1 403 Forbidden", b"HTTP/1.1 400 Bad Request", b""), repr(end)
    client = grpc_client.InferenceServerClient(server.triton_grpc)
    for value in (secret, f"{secret} ", f"{secret}%0A"):
        with pytest.raises(InferenceServerException, match="restricted"):
            client.get_model_repository_index(headers={f"triton-grpc-protocol-{HEADER}": value})
    client.close()


def _secret_of_process_list(server: RunningServer) -> str:
    for pid in descendants(server.process.pid):
        for flag in Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace").split("\0"):
            if flag.startswith("--http-restricted-api="):
                return flag.rpartition("=")[2]
    raise AssertionError("tritonserver restricts nothing")


def test_ways_around_the_restrictions_are_closed(server: RunningServer) -> None:
    for path in ("/ping", "/models", "/models/ernie/invoke", "/invocations", "/v2/health/../repository/index", "//v2/repository/index"):
        assert httpx.post(server.triton_url + path, json={}, timeout=30).status_code in (400, 403, 404, 405), path


@pytest.mark.parametrize("name", ["../../../etc", "%2e%2e%2f", "ernie%00", "no-such-model"])
def test_model_names_that_are_paths(server: RunningServer, name: str) -> None:
    for path in ("", "/config", "/ready", "/generate"):
        answer = httpx.request("POST" if path == "/generate" else "GET", f"{server.triton_url}/v2/models/{name}{path}", json={}, timeout=30)
        assert answer.status_code in (400, 404), (path, answer.text)
        assert "root:" not in answer.text


def _request(model: str = "ernie", **fields: Any) -> Any:
    """A ModelInferRequest with one proper input, `text_input`, unless told otherwise."""
    message = service_pb2.ModelInferRequest(model_name=model, id="attack")
    shape, raw = fields.get("shape", [1]), fields.get("raw", b"\x02\0\0\0hi")
    tensor = message.inputs.add(name=fields.get("name", "text_input"), datatype=fields.get("datatype", "BYTES"), shape=shape)
    if fields.get("region"):
        tensor.parameters["shared_memory_region"].string_param = fields["region"]
        tensor.parameters["shared_memory_byte_size"].int64_param = 64
    elif raw is not None:
        message.raw_input_contents.append(raw)
    return message


FORGED: dict[str, Any] = {
    "a string that is cut off": _request(raw=b"\xff\0\0\0hi"),
    "a string longer than memory": _request(raw=b"\xff\xff\xff\xffhi"),
    "half a length": _request(raw=b"\x02\0"),
    "no bytes": _request(raw=b""),
    "no contents": _request(raw=None),
    "two strings where one is said": _request(raw=b"\x02\0\0\0hi" * 2),
    "one string where a million are said": _request(shape=[1_000_000]),
    "a shape beyond memory": _request(shape=[2**62]),
    "a negative shape": _request(shape=[-1]),
    "a shape of many sides": _request(shape=[1] * 64),
    "no shape": _request(shape=[]),
    "another type": _request(datatype="INT32", raw=b"\0\0\0\0"),
    "no type at all": _request(datatype="POINTER"),
    "an unknown input": _request(name="../text_input"),
    "memory of someone else": _request(region="triton_python_backend_shm_region_1"),
    "an inner model": _request("ernie_engine"),
    "another inner model": _request("ernie_postprocess"),
    "a model that is a path": _request("../../etc"),
    "no model": _request(""),
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_tensors(server: RunningServer, name: str) -> None:
    with grpc.insecure_channel(server.triton_grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        replies = list(stub.ModelStreamInfer(iter([FORGED[name]]), timeout=60))
        assert replies and replies[0].error_message, replies
        assert not any(word in replies[0].error_message for word in ("Traceback", "/tmp/", "site-packages", "shm_region_2"))
        assert stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=30).ready


def test_what_lies_about_is_for_us_alone(server: RunningServer) -> None:
    (folder,) = {Path(path) for path in _environment(server, "TMPDIR") if Path(path).name.startswith("ernie-triton-")}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    relay = (folder / SOCKET_NAME).stat()
    assert stat.S_ISSOCK(relay.st_mode) and stat.S_IMODE(relay.st_mode) == 0o600
    regions = list(Path("/dev/shm").glob(f"{folder.name}-*"))
    assert regions
    for region in regions:
        assert stat.S_IMODE(region.stat().st_mode) == 0o600, region


def _environment(server: RunningServer, name: str) -> set[str]:
    found = set()
    for pid in descendants(server.process.pid):
        for line in Path(f"/proc/{pid}/environ").read_text(encoding="utf-8", errors="replace").split("\0"):
            if line.startswith(f"{name}="):
                found.add(line.partition("=")[2])
    return found


def test_all_ports_are_on_loopback(server: RunningServer) -> None:
    """As it was started: `--host` says loopback for the front end, and nothing had to be said for Triton's ports."""
    inodes = {
        link.readlink().name.removeprefix("socket:[").rstrip("]")
        for pid in descendants(server.process.pid)
        for link in Path(f"/proc/{pid}/fd").iterdir()
        if link.is_symlink() and str(link.readlink()).startswith("socket:[")
    }
    listening = [
        fields[1]
        for table in ("/proc/net/tcp", "/proc/net/tcp6")
        for fields in map(str.split, Path(table).read_text(encoding="ascii").splitlines()[1:])
        if fields[3] == "0A" and fields[9] in inodes  # LISTEN
    ]
    assert len(listening) >= 4
    assert {address.partition(":")[0] for address in listening} <= {V4, V4_IN_V6}
