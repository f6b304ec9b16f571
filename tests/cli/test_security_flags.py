"""The flags that say who may come in: what they take, what they warn of, and where keys go and do not go."""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from ernie_backend.cli.background import free_ports
from ernie_backend.cli.commands import front_end_command, triton_environment
from ernie_backend.cli.flags import add_arguments, normalise, read_options
from ernie_backend.cli.private_folder import PrivateFolder
from ernie_backend.cli.probes import front_end_health
from ernie_backend.cli.security_flags import SecurityOptions, read_security
from ernie_backend.cli.tritonserver import find_installation
from ernie_backend.errors import ConfigError

TLS = Path(__file__).parents[1] / "media" / "tls"
CERTIFICATE, KEY = str(TLS / "media.test.crt"), str(TLS / "media.test.key")


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(normalise(["--model", "m", *arguments]))


def read(*arguments: str, **environment: str) -> SecurityOptions:
    return read_security(parse(*arguments), environment)


def test_keys_come_from_flags_environment_and_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("k4 admin\n")
    options = read("--api-key", "k1", "--api-key=k2", "--api_key_file", str(file), FD_API_KEY="k2, k3,")
    assert options.api_keys == ("k1", "k2", "k3") and options.api_key_file == str(file) and options.asks_for_keys
    assert not read().asks_for_keys and read(FD_API_KEY="").api_keys == ()
    assert "k1" not in repr(options)
    for nothing in (",", " "):
        with pytest.raises(ConfigError, match="FD_API_KEY is set and holds no key"):
            read(FD_API_KEY=nothing)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--api-key", "a b"), "An API key must be one word"),
        (("--api-key", ""), "An API key must be one word"),
        (("--api-key-file", "nowhere"), f"The file of API keys {str(Path('nowhere').resolve())!r} cannot be read: No such file"),
        (("--api-key-file", "/dev/null"), "--api-key-file '/dev/null' holds no key"),
        (("--ssl-keyfile", KEY), "--ssl-keyfile means nothing without --ssl-certfile"),
        (("--ssl-ca-certs", CERTIFICATE), "--ssl-ca-certs means nothing without --ssl-certfile"),
        (("--ssl-certfile", "nowhere"), "--ssl-certfile and --ssl-keyfile cannot be used: No such file"),
        (("--ssl-certfile", CERTIFICATE), "--ssl-certfile and --ssl-keyfile cannot be used"),
        (("--ssl-certfile", CERTIFICATE, "--ssl-keyfile", CERTIFICATE), "--ssl-certfile and --ssl-keyfile cannot be used"),
        (("--ssl-certfile", CERTIFICATE, "--ssl-keyfile", KEY, "--ssl-ca-certs", KEY), "--ssl-ca-certs cannot be used"),
        (("--allowed-origins", "chat.example"), "--allowed-origins must be origins such as"),
        (("--allowed-origins", "https://chat.example/path"), "--allowed-origins must be origins such as"),
        (("--allowed-origins", '["https://a.example", 5]'), "--allowed-origins must be origins such as"),
        (("--allowed-origins", "*", "https://a.example"), "--allowed-origins: '*' stands alone"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments: Sequence[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(*arguments)
    assert caught.value.message.startswith(message)


def test_origins_are_words_or_a_json_list() -> None:
    assert read("--allowed-origins", "https://a.example", "http://localhost:3000").allowed_origins == (
        "https://a.example",
        "http://localhost:3000",
    )
    assert read("--allowed-origins", '["https://a.example", "http://[::1]:80"]').allowed_origins == ("https://a.example", "http://[::1]:80")
    assert read("--allowed-origins", '["*"]').allowed_origins == ("*",) and read().allowed_origins == ()


@pytest.mark.parametrize(
    ("host", "triton_host", "key", "warned"),
    [
        ("127.0.0.1", "127.0.0.1", False, []),
        ("localhost", "::1", False, []),
        ("0.0.0.0", "127.0.0.1", True, []),
        ("0.0.0.0", "127.0.0.1", False, ["--host 0.0.0.0"]),
        ("127.0.0.1", "0.0.0.0", True, ["--triton-host 0.0.0.0"]),
        ("::", "10.1.2.3", False, ["--triton-host 10.1.2.3", "--host ::"]),
    ],
)
def test_what_is_left_open_is_said(host: str, triton_host: str, key: bool, warned: list[str]) -> None:
    arguments = ("--host", host, "--triton-host", triton_host, *(("--api-key", "k") if key else ()))
    warnings = read_options(parse(*arguments), on_gpu=False).warnings
    assert [any(flag in warning for flag in warned) for warning in warnings] == [True] * len(warned)
    assert ("goes around the API keys" in " ".join(warnings)) == (key and triton_host != "127.0.0.1")


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        (0o600, None),
        (0o400, None),
        (0o640, None),
        (0o644, "can be read by others than its owner (mode 644)"),
        (0o660, "can be changed by others than its owner (mode 660)"),
        (0o602, "can be changed by"),
        (0o666, "can be read and changed by others than its owner (mode 666)"),
    ],
)
def test_a_key_file_that_others_may_use_is_told_once(tmp_path: Path, mode: int, said: str | None) -> None:
    file = tmp_path / "keys"
    file.write_text("k\n")
    file.chmod(mode)
    warnings = read_options(parse("--api-key-file", str(file)), on_gpu=False).warnings
    assert len(warnings) == (said is not None)
    for warning in warnings:
        assert warning.startswith(f"warning: --api-key-file {said}") and warning.endswith(f"chmod 600 {file}")


def test_keys_go_to_the_front_end_alone_and_on_no_command_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FD_API_KEY", "sesame-1")
    options = read_options(parse("--api-key", "sesame-2", "--ssl-certfile", CERTIFICATE, "--ssl-keyfile", KEY), on_gpu=False)
    command = front_end_command(options, 4096, tmp_path / "outage", 3)
    assert "sesame" not in " ".join(command) and f"--ssl-certfile={CERTIFICATE}" in command
    assert options.security.environment({"PATH": "x"}, with_keys=True) == {"PATH": "x", "FD_API_KEY": "sesame-2,sesame-1"}
    with PrivateFolder() as folder:
        assert "sesame" not in repr(triton_environment(options, find_installation(), folder, tmp_path))


@pytest.mark.parametrize("asks_for_certificate", [False, True])
def test_a_front_end_that_speaks_tls_is_found_healthy(asks_for_certificate: bool) -> None:
    """Where it asks for a certificate, TLS is the sign; where it does not, its word counts, and without Triton it says no."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "ernie_openai", "--host", "127.0.0.1", "--port", str(port), "--ssl-certfile", CERTIFICATE]
    command += ["--ssl-keyfile", KEY, "--triton-grpc", "127.0.0.1:1", *(["--ssl-ca-certs", CERTIFICATE] if asks_for_certificate else [])]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        while process.poll() is None and not _listens(port):
            time.sleep(0.05)
        told = front_end_health("127.0.0.1", port, tls=True, asks_for_certificate=asks_for_certificate, timeout_seconds=30)
        assert told == (200 if asks_for_certificate else 503)
        assert front_end_health("127.0.0.1", port, tls=False) is None
    finally:
        process.terminate()
        process.communicate(timeout=30)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True
