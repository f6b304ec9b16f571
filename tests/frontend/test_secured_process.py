"""`python -m ernie_openai` with keys and TLS: each worker reads the file again, no process list shows a key, clients prove who they are."""

from __future__ import annotations

import asyncio
import ssl
import sys
from pathlib import Path

import httpx
import pytest

from ernie_backend.cli.background import free_ports

from .fake_triton import FakeTriton, serving
from .test_process import front_end, one_word

TLS = Path(__file__).parents[1] / "media" / "tls"
CERTIFICATE, KEY = str(TLS / "media.test.crt"), str(TLS / "media.test.key")
NAMED = {"sni_hostname": "media.test"}
"""The certificate's name, for a server that is reached by its address."""


async def all_give(client: httpx.AsyncClient, key: str, status: int) -> None:
    """Sooner or later. Many fresh connections at once: whichever worker is free takes one."""
    headers = {"authorization": f"Bearer {key}", "connection": "close"}
    for _ in range(300):
        answers = await asyncio.gather(*(client.get("/v1/models", headers=headers) for _ in range(20)))
        found = {answer.status_code for answer in answers}
        if found == {status}:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"{key} still gives {found}")


async def test_every_worker_reads_the_keys_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FD_API_KEY", "sesame-fixed")
    file, next_file = tmp_path / "keys", tmp_path / "next keys"
    file.write_text("sesame-old\n")
    next_file.write_text("sesame-new admin\n")
    flags = ("--workers", "2", "--api-key-file", str(file))
    async with serving(FakeTriton(one_word)) as address, front_end(address, *flags) as (process, client):
        await all_give(client, "sesame-old", 200)
        await all_give(client, "sesame-new", 401)
        next_file.rename(file)
        await all_give(client, "sesame-new", 200)
        await all_give(client, "sesame-old", 401)
        await all_give(client, "sesame-fixed", 200)
        for pid in (process.pid, *map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())):
            assert b"sesame" not in Path(f"/proc/{pid}/cmdline").read_bytes()


@pytest.mark.parametrize("asks_for_certificate", [False, True])
async def test_tls(asks_for_certificate: bool) -> None:
    port = free_ports(1)[0]
    flags = ["--ssl-certfile", CERTIFICATE, "--ssl-keyfile", KEY, *(["--ssl-ca-certs", CERTIFICATE] if asks_for_certificate else [])]
    with_proof = ssl.create_default_context(cafile=CERTIFICATE)
    with_proof.load_cert_chain(CERTIFICATE, KEY)
    without = ssl.create_default_context(cafile=CERTIFICATE)
    async with serving(FakeTriton(one_word)) as address:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "ernie_openai", "--host", "127.0.0.1", "--port", str(port), "--triton-grpc", address, *flags)
        )
        try:
            url = f"https://127.0.0.1:{port}/v1/models"
            async with httpx.AsyncClient(verify=with_proof, trust_env=False) as known:
                assert (await until_up(known, url, process)).status_code == 200
            async with httpx.AsyncClient(verify=without, trust_env=False) as unknown:
                if asks_for_certificate:
                    with pytest.raises(httpx.TransportError):
                        await unknown.get(url, extensions=NAMED)
                else:
                    assert (await unknown.get(url, extensions=NAMED)).status_code == 200
            async with httpx.AsyncClient(trust_env=False) as plain:
                with pytest.raises(httpx.TransportError):
                    await plain.get(url.replace("https", "http"))
        finally:
            process.terminate()
            await process.wait()


async def until_up(client: httpx.AsyncClient, url: str, process: asyncio.subprocess.Process) -> httpx.Response:
    for _ in range(600):
        assert process.returncode is None, "it ended while starting"
        try:
            return await client.get(url, extensions=NAMED)
        except httpx.ConnectError:
            await asyncio.sleep(0.1)
    raise AssertionError("it never listened")
