"""`ernie-triton bench server`: what it makes of the times that its clients saw, and which flags it refuses."""

from __future__ import annotations

import pytest

from ernie_backend.benchmark.load_client import PROMPT_IDS, Answer, GrpcClient
from ernie_backend.benchmark.server_bench import percentile, summary
from ernie_backend.cli.__main__ import main
from ernie_backend.cli.background import free_ports
from ernie_backend.text.tokenizer import Tokenizer
from ernie_demo_model import FOLDER


def test_the_row_of_two_streams():
    """Both decode from 12 to 14; the first asks again at once."""
    answers = [
        Answer(10.0, [11.0, 12.0, 13.0, 14.0], [1, 1, 2, 1]),
        Answer(10.0, [12.0, 13.5, 15.0], [1, 3, 1]),
        Answer(14.0, [15.5, 16.0], [1, 4]),
        Answer(10.0, error="refused"),
    ]
    row = summary(answers, streams=2, processes=1)
    assert (row.requests, row.failed, row.error, row.seconds) == (4, 1, "refused", 6.0)
    assert row.tokens_per_second == pytest.approx(15 / 6) and row.responses_per_second == pytest.approx(9 / 6)
    assert row.decode_tokens_per_second == pytest.approx((2 + 1 + 3) / 2), "what came after 12 and up to 14"
    assert row.first_token_ms == (1500.0, 2000.0)
    assert row.inter_token_ms == (500.0, 1500.0), "125 ms for 4 tokens, 500 for 5, 1000 for 2, 1500 for 1"


def test_streams_that_never_decode_together_have_no_such_rate():
    row = summary([Answer(0.0, [1.0, 2.0], [1, 1]), Answer(2.0, [3.0, 4.0], [1, 1])], streams=2, processes=2)
    assert row.decode_tokens_per_second is None and row.tokens_per_second == 1.0


def test_nothing_but_failures():
    row = summary([Answer(1.0, error="a"), Answer(2.0, error="b")], streams=2, processes=1)
    assert (row.failed, row.error, row.tokens_per_second, row.first_token_ms) == (2, "a", 0.0, (0.0, 0.0))


@pytest.mark.parametrize(("percent", "value"), [(1, 1.0), (50, 2.0), (75, 2.0), (76, 3.0), (99, 3.0)])
def test_percentiles_count_weights(percent, value):
    assert percentile([(3.0, 1), (2.0, 2), (1.0, 1)], percent) == value


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        *[("--url", "http://localhost:8001"), ("--url", "localhost"), ("--streams", "0"), ("--streams", "a")],
        *[("--tokens", "0"), ("--requests", "0"), ("--processes", "0"), ("--prompt", "-1")],
    ],
)
def test_bad_flags_are_named(flag, value, capsys):
    given = {"--url": "127.0.0.1:8001", flag: value}
    assert main(["bench", "server", *(part for pair in given.items() for part in pair)]) == 2
    assert flag in capsys.readouterr().err


def test_missing_packages_are_named(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["bench", "server", "--url", "127.0.0.1:8001", "--protocol", "http"]) == 2
    assert "needs aiohttp" in capsys.readouterr().err


def test_prompts_are_ordinary_tokens_of_the_demo_model_too():
    tokenizer = Tokenizer.from_folder(FOLDER)
    assert PROMPT_IDS.stop <= tokenizer.vocab_size and not tokenizer.control_ids.intersection(PROMPT_IDS)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "a..b"])
def test_nobody_there_is_one_line(host, protocol, capsys):
    url = f"{host}:{free_ports(1)[0]}"
    assert main(["bench", "server", "--url", url, "--protocol", protocol]) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and f"No connection to {url} (" in said.err


async def test_a_broken_call_is_one_line():
    address = f"127.0.0.1:{free_ports(1)[0]}"
    client, answer = GrpcClient(address), Answer(0.0)
    await client.answer([1000], 1, answer)
    await client.close()
    assert answer.error is not None and answer.error.startswith("UNAVAILABLE: ") and "\n" not in answer.error
