"""`serve` with keys and TLS, as a whole: who gets in, and that the keys are where they must be and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from ernie_backend.cli.background import RunningServer
from tests.e2e.server import descendants, running_server

TLS = Path(__file__).parents[1] / "media" / "tls"
CERTIFICATE, KEY = TLS / "media.test.crt", TLS / "media.test.key"
KEYS = "sesame-chat infer\nsesame-graphs metrics\n"


@pytest.fixture(scope="module")
def secured(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text(KEYS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FD_API_KEY", "sesame-env")
        flags = {"api_key_file": file, "ssl_certfile": CERTIFICATE, "ssl_keyfile": KEY, "allowed_origins": "https://chat.example"}
        with running_server(small_model, max_model_len=512, workers=2, **flags) as running:
            yield running


def client(url: str, key: str | None) -> httpx.Client:
    """The certificate bears another name than the address that tests can reach, and is its own authority."""
    return httpx.Client(base_url=url, verify=False, trust_env=False, headers={"authorization": f"Bearer {key}"} if key else {}, timeout=60)


@pytest.mark.parametrize(
    ("key", "models", "metrics"),
    [(None, 401, 401), ("sesame", 401, 401), ("sesame-chat", 200, 403), ("sesame-graphs", 403, 200), ("sesame-env", 200, 200)],
)
def test_who_gets_in(secured: RunningServer, key: str | None, models: int, metrics: int) -> None:
    assert secured.openai_url.startswith("https://")
    with client(secured.openai_url, key) as asking:
        assert [asking.get(path).status_code for path in ("/v1/models", "/metrics", "/health")] == [models, metrics, 200]


def test_the_openai_client_over_tls(secured: RunningServer) -> None:
    with client(secured.openai_url, None) as asking:
        known = openai.Client(base_url=f"{secured.openai_url}/v1", api_key="sesame-chat", http_client=asking, max_retries=0)
        stream = known.chat.completions.create(model="x", messages=[{"role": "user", "content": "Hello"}], max_tokens=4, stream=True)
        assert sum(1 for _ in stream) > 1
        with pytest.raises(openai.AuthenticationError):
            known.with_options(api_key="sesame-x").models.list()
        with pytest.raises(openai.PermissionDeniedError):
            known.with_options(api_key="sesame-graphs").models.list()


def test_keys_are_in_no_process_list_and_no_log_and_not_with_triton(secured: RunningServer) -> None:
    told = {"front end": 0, "others": 0}
    for pid in descendants(secured.process.pid):
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        assert b"sesame" not in command, command
        kind = "front end" if b"ernie_openai" in command or b"multiprocessing" in command else "others"
        told[kind] += b"sesame" in Path(f"/proc/{pid}/environ").read_bytes()
    assert told["front end"] >= 1 and told["others"] == 0
    assert "sesame" not in "".join(secured.log)
