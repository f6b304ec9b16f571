"""Faults of one request, and of what a server is made of: others go on or get a proper error, and it comes back by itself.

One server for all of them. Its model has one token whose embedding is not a number, so that a prompt with it yields logits that are none;
its /dev/shm is its own, if we may do that, so that it can be filled up.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import resource
import signal
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from ernie_backend.cli.__main__ import main
from ernie_backend.cli.background import RunningServer
from ernie_backend.cli.processes import is_running
from tests.e2e.faults import (
    GREEDY,
    RECOVERY_SECONDS,
    BreakableEngine,
    HealthLog,
    Neighbour,
    ask,
    full_shared_memory,
    helpers,
    holdings,
    in_private_shared_memory,
    neighbours,
    processes,
    relay_socket,
    text,
    wait_for_line,
    wait_until_healthy,
    wait_until_it_holds,
)
from tests.e2e.kserve import Stream
from tests.e2e.observe import metric, wait_until_idle
from tests.e2e.server import running_server, wait_until_gone

EXPERTS = "moe_num_experts=4 moe_intermediate_size=64 moe_k=2 num_hidden_layers=2 hidden_size=64 intermediate_size=6144"
SIZES = [*EXPERTS.split(), *["tie_word_embeddings=false", "num_attention_heads=4", "num_key_value_heads=2", "head_dim=16"]]
POISON = 5000
SHARED_MEMORY_MEGABYTES = 64
PAUSE_SECONDS = 1.4
"""After one second tritonserver gave up on a model's process; after three `serve` does on whatever is stopped."""
OF_TRITON = ("bin/tritonserver", "ernie_engine/1", "ernie_preprocess/1", "ernie_postprocess/1")


@pytest.fixture(scope="module")
def poisoned_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "poisoned"
    assert main(["random-checkpoint", "--like", "ERNIE-4.5-21B-A3B", "--out", str(folder), "--set", *SIZES]) == 0
    with (folder / "model.safetensors").open("r+b") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        table = json.loads(file.read(length))["model.embed_tokens.weight"]
        assert table["dtype"] == "BF16"
        width = table["shape"][1]
        file.seek(8 + length + table["data_offsets"][0] + POISON * width * 2)
        file.write(struct.pack("<H", 0x7FC0) * width)  # NaN
    return folder


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> BreakableEngine:
    return BreakableEngine(tmp_path_factory.mktemp("breakable"))


@pytest.fixture(scope="module")
def faulty(poisoned_model: Path, engine: BreakableEngine) -> Iterator[RunningServer]:
    flags: dict[str, object] = {"max_model_len": 4096, "max_num_seqs": 8, "max_restarts": 20, "model_repository": engine.repository}
    with contextlib.ExitStack() as stack:

        def start() -> RunningServer:
            return stack.enter_context(running_server(poisoned_model, **flags))

        try:
            yield in_private_shared_memory(start, SHARED_MEMORY_MEGABYTES)
        except PermissionError:
            yield start()


@pytest.fixture(scope="module")
def first_answer(faulty: RunningServer) -> str:
    return text(ask(faulty))


@pytest.fixture(scope="module")
def held_at_first(faulty: RunningServer, first_answer: str) -> dict[str, int]:
    return holdings(faulty)


@pytest.fixture(autouse=True)
def comes_back(faulty: RunningServer, first_answer: str, held_at_first: dict[str, int]) -> Iterator[None]:
    """After every fault: ready by itself, the same answer as ever, and nothing left of what was under way."""
    before = processes(faulty, "ernie_engine/1")
    yield
    wait_until_healthy(faulty)
    assert text(ask(faulty)) == first_answer
    if processes(faulty, "ernie_engine/1") == before:  # else it is another engine
        wait_until_idle(faulty)
    wait_until_it_holds(faulty, held_at_first)


# One request's failure is its own ------------------------------------------------------------------------------------------------


def test_logits_that_are_no_numbers_end_their_request_alone(faulty: RunningServer) -> None:
    """Also when its neighbours then get the blocks that it has written into, and share its steps and its experts."""
    crowd = [Neighbour(faulty, f"beside {i}", 150, openai=i % 2 == 0) for i in range(4)]
    for each in crowd:
        each.wait_until_begun()
    failures = [ask(faulty, prompt=[10, POISON, 11], stream=stream) for stream in (False, True, False)]
    failures.append(ask(faulty, prompt=[12] * 200 + [POISON], n=2))
    assert [each.end() for each in crowd] == ["length"] * 4
    for response in (failures[0], *failures[2:]):
        assert response.status_code == 500 and "failed while it computed this answer" in response.json()["error"]["message"]
    assert "failed while it computed" in failures[1].text and "[DONE]" not in failures[1].text
    for each in crowd:
        alone = text(ask(faulty, prompt=each._prompt, max_tokens=150))
        assert each.text == alone


def test_out_of_memory_in_a_step(faulty: RunningServer) -> None:
    """The step's requests end with an error, the one that waits is answered, and the process goes on."""
    text(ask(faulty, prompt=[7] * 600, max_tokens=1))  # so that every thread that such a step needs is there
    (engine,) = processes(faulty, "ernie_engine/1")
    used = int(Path(f"/proc/{engine}/statm").read_text().split()[0]) * resource.getpagesize()
    beside = Neighbour(faulty, "in the same step", 3000, openai=False)
    beside.wait_until_begun()
    resource.prlimit(engine, resource.RLIMIT_AS, (used, resource.RLIM_INFINITY))
    try:
        failed = ask(faulty, prompt=[8] * 2048)  # takes 100 MB more
        small = ask(faulty)
    finally:
        resource.prlimit(engine, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert failed.status_code == 500 and "failed while it computed this answer" in failed.json()["error"]["message"]
    assert beside.end() == "error"
    assert small.status_code == 200
    assert processes(faulty, "ernie_engine/1") == [engine]


def test_full_shared_memory(faulty: RunningServer) -> None:
    """What does not fit is refused, small requests pass, and large ones pass again when there is room."""
    if shared_memory_is_common(faulty):
        pytest.skip("needs a /dev/shm of its own: root, or the right to mount")
    large = {"prompt": "w " * 2_000_000}  # 4 MB, which cannot be a prompt; it must be carried to preprocess to learn that
    with full_shared_memory(faulty), neighbours(faulty, 300) as both:
        refused = [ask(faulty, **large) for _ in range(3)]
        for response in refused:
            assert response.status_code in (500, 503), response.text
            assert "ernie-triton" not in response.text, "no names of ours"
        assert [each.end() for each in both] == ["length", "length"]
    assert ask(faulty, **large).status_code == 400


def shared_memory_is_common(server: RunningServer) -> bool:
    return os.stat(f"/proc/{server.process.pid}/ns/mnt").st_ino == os.stat("/proc/self/ns/mnt").st_ino


def test_the_relay_is_cut(faulty: RunningServer) -> None:
    """A cleaner of temporary folders took the socket's file: acknowledgements are lost, answers still end, and a new one is made."""
    relay = relay_socket(faulty)
    with neighbours(faulty, 600) as both:
        relay.unlink()
        assert [each.end() for each in both] == ["length", "length"]
    deadline = time.monotonic() + 30
    while not relay.exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    before = metric(faulty, "ernie_generation_tokens_total")
    stream = Stream(faulty.triton_grpc, text_input="leave", max_tokens=3500, sampling_parameters=GREEDY)
    stream.next()
    stream.cancel()
    wait_until_idle(faulty, 60)
    assert metric(faulty, "ernie_generation_tokens_total") - before < 3000, "it is heard again"


@pytest.mark.parametrize("which", [*OF_TRITON, ""])
def test_whoever_stands_still_for_a_moment_costs_nobody_anything(faulty: RunningServer, which: str) -> None:
    """One process, or all of them, as on a machine that is moved; for longer than Triton's Python backend looks on by itself."""
    everyone = {kind: processes(faulty, kind) for kind in OF_TRITON}
    with neighbours(faulty, 600) as both:
        for pid in processes(faulty, which):
            os.kill(pid, signal.SIGSTOP)
        arrived = [Neighbour(faulty, f"meanwhile {openai}", 20, openai=openai) for openai in (True, False)]
        time.sleep(PAUSE_SECONDS)
        for pid in processes(faulty, which):
            os.kill(pid, signal.SIGCONT)
        assert [each.end() for each in (*both, *arrived)] == ["length"] * 4
    assert {kind: processes(faulty, kind) for kind in OF_TRITON} == everyone


@pytest.mark.parametrize("worker", ["template_worker", "grammar_worker"])
def test_killed_helper_processes_of_preprocess(faulty: RunningServer, worker: str) -> None:
    """Nobody notices."""
    numbers = itertools.count(1)

    def chat() -> httpx.Response:
        given = f"[ab]{{{next(numbers)}}}"  # a known one is not tried again
        body = {"messages": [{"role": "user", "content": "hello"}], "guided_regex": given, "max_tokens": 8, "temperature": 0}
        return httpx.post(f"{faulty.openai_url}/v1/chat/completions", json=body, timeout=80)

    while len(helpers(faulty, worker)) < 2:  # one in each of the two preprocess processes, started when first needed
        assert chat().status_code == 200
    with neighbours(faulty, 300) as both:
        broken = helpers(faulty, worker)
        for pid in broken:
            os.kill(pid, signal.SIGKILL)
        answers = [chat() for _ in range(4)]
        assert [each.end() for each in both] == ["length", "length"]
    assert [answer.status_code for answer in answers] == [200] * 4, [answer.text for answer in answers]
    assert not set(helpers(faulty, worker)) & set(broken)


# Something that all need is gone -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("which", "number", "reason"),
    [
        ("ernie_engine/1", signal.SIGKILL, "the process of ernie_engine has died"),
        ("ernie_preprocess/1", signal.SIGKILL, "the process of ernie_preprocess has died"),
        ("ernie_postprocess/1", signal.SIGKILL, "the process of ernie_postprocess has died"),
        ("ernie_engine/1", signal.SIGSTOP, "the process of ernie_engine has been stopped"),
        ("bin/tritonserver", signal.SIGKILL, "tritonserver has ended (killed by SIGKILL)"),
    ],
)
def test_tritonserver_is_restarted(faulty: RunningServer, which: str, number: signal.Signals, reason: str) -> None:
    before = {pid for kind in OF_TRITON for pid in processes(faulty, kind)}
    told_before = sum("tritonserver is ready again after" in line for line in faulty.log)
    health = HealthLog(faulty)
    with neighbours(faulty, 3900) as both:
        os.kill(processes(faulty, which)[0], number)
        assert {each.end() for each in both} == {"unavailable"}
    refused = ask(faulty)
    assert refused.status_code == 503 and refused.headers["retry-after"]
    wait_until_healthy(faulty)
    health.end()
    assert health.statuses == [200, 503, 200], health.seen
    refusals = [(message, retry_after) for status, message, retry_after in health.seen if status == 503]
    assert any(reason in message for message, _ in refusals) and all(retry_after for _, retry_after in refusals), refusals
    after = {pid for kind in OF_TRITON for pid in processes(faulty, kind)}
    assert not before & after and len(after) == len(before)
    assert any(reason in line for line in faulty.log)
    assert sum("tritonserver is ready again after" in line for line in faulty.log) == told_before + 1


def test_a_lost_device_and_with_it_the_engines_thread(faulty: RunningServer, engine: BreakableEngine) -> None:
    """Everyone under way is told, and who comes meanwhile, before the process ends; another one takes its place."""
    (before,) = processes(faulty, "ernie_engine/1")
    health = HealthLog(faulty)
    with neighbours(faulty, 3900) as both:
        engine.lose_device()
        assert [each.end() for each in both] == ["internal_error", "error"]
        refused = ask(faulty)
    assert refused.status_code == 503 and refused.headers["retry-after"], refused.text
    wait_until_gone({before}, RECOVERY_SECONDS)
    wait_until_healthy(faulty)
    health.end()
    assert health.statuses == [200, 503, 200], health.seen
    assert any("its thread has died" in message for _, message, _ in health.seen), health.seen
    assert processes(faulty, "ernie_engine/1") != [before]


def test_the_front_end_is_restarted(faulty: RunningServer) -> None:
    """Its clients are cut off, those of Triton's own face go on, and what it had asked for is given up."""
    generated = metric(faulty, "ernie_generation_tokens_total")
    lost = Neighbour(faulty, "lost", 3900, openai=True)
    kept = Neighbour(faulty, "kept", 300, openai=False)
    lost.wait_until_begun()
    kept.wait_until_begun()
    os.kill(processes(faulty, "-m ernie_openai")[0], signal.SIGKILL)
    assert "RemoteProtocolError" in lost.end()
    assert kept.end() == "length"
    wait_until_idle(faulty, 60)
    assert metric(faulty, "ernie_generation_tokens_total") - generated < 3900


def test_a_front_end_that_stands_still_is_restarted(faulty: RunningServer, first_answer: str) -> None:
    """It keeps its port, and answers nobody."""
    (front_end,) = processes(faulty, "-m ernie_openai")
    os.kill(front_end, signal.SIGSTOP)
    assert text(ask(faulty)) == first_answer, "whoever came meanwhile has waited"
    assert not is_running(front_end)
    assert any("The front end does not answer; restarting it …" in line for line in faulty.log)


def test_the_front_end_is_restarted_while_the_model_loads(faulty: RunningServer, first_answer: str) -> None:
    """Both die, as of too little memory: it is back before there is anybody who can answer, and says so."""
    (tritonserver,), (front_end,) = processes(faulty, "bin/tritonserver"), processes(faulty, "-m ernie_openai")
    os.kill(tritonserver, signal.SIGKILL)
    os.kill(front_end, signal.SIGKILL)
    wait_until_healthy(faulty)
    assert text(ask(faulty)) == first_answer
    said = [line for line in faulty.log if "is ready again after" in line or "; restarting" in line][-4:]
    assert ["ready" in line for line in said] == [False, False, True, True], said
    assert ["front end" in line for line in said] == [False, True, False, True], said


def test_whoever_comes_while_the_front_end_is_restarted_waits_and_is_answered(faulty: RunningServer, first_answer: str) -> None:
    """Nobody is refused, and a restart that has helped leaves no pause to the next."""
    again = "The front end is ready again after"
    before = sum(again in line for line in faulty.log)
    for number in range(1, 4):
        (front_end,) = processes(faulty, "-m ernie_openai")
        os.kill(front_end, signal.SIGKILL)
        while is_running(front_end):
            time.sleep(0.001)
        assert text(ask(faulty)) == first_answer
        wait_for_line(faulty, again, before + number)
    assert not any("restarting it in" in line for line in faulty.log)
