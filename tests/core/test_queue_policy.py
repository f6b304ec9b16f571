"""The order of the queue: preempted first, then levels, then fair turns; a table, guarantees, and seeded walks against a plain model."""

from __future__ import annotations

import random

import pytest

from ernie_backend.core.queue_policy import PATIENCE, FairQueue
from ernie_backend.core.request import RequestGroup, Sequence
from ernie_backend.protocol import FinishReason, GenerateRequest, Level, SamplingParams

_numbers = iter(range(10**9))


def sequence(tenant: str = "", level: int = Level.DEFAULT, prompt: int = 4) -> Sequence:
    request = GenerateRequest(f"k{next(_numbers)}", (1,) * prompt, SamplingParams(max_tokens=8), tenant=tenant, level=level)
    group = RequestGroup(request)
    group.sequences.append(Sequence(next(_numbers), group, 0, prompt + 8))
    return group.leader


class Queue(FairQueue):
    """Checked after everything; `running` is what was admitted and has not ended."""

    def __init__(self) -> None:
        super().__init__()
        self.running: list[Sequence] = []

    def put(self, *names: str, level: int = Level.DEFAULT, prompt: int = 4) -> list[Sequence]:
        made = [sequence(name, level, prompt) for name in names]
        for each in made:
            self.add(each)
            self.check_invariants(self.running)
        return made

    def admit(self) -> Sequence:
        found = next(self.candidates())
        self.take(found)
        found.group.announced = True
        self.running.append(found)
        self.check_invariants(self.running)
        return found

    def end(self, found: Sequence, num_tokens: int = 0) -> None:
        found.finish_reason = FinishReason.STOP
        found.output_token_ids = [1] * num_tokens
        if found in self.running:
            self.running.remove(found)
        else:
            self.remove(found)
        self.ended(found)
        self.check_invariants(self.running)

    def order(self, count: int) -> str:
        return "".join(self.admit().group.request.tenant for _ in range(count))


@pytest.mark.parametrize(
    ("arrivals", "prompts", "expected"),
    [
        ("aaaa", {}, "aaaa"),
        ("aaaab", {}, "abaaa"),
        ("aaabbb", {}, "ababab"),
        ("abcabc", {}, "abcabc"),
        ("aaaabb", {"a": 4, "b": 12}, "abaaab"),  # a long prompt counts as much as three short ones
        ("bbaaaa", {"a": 4, "b": 12}, "baaaba"),
    ],
)
def test_fair_turns(arrivals: str, prompts: dict[str, int], expected: str) -> None:
    queue = Queue()
    for name in arrivals:
        queue.put(name, prompt=prompts.get(name, 4))
    assert queue.order(len(arrivals)) == expected


def test_a_thousand_of_one_tenant_hold_up_another_by_one() -> None:
    queue = Queue()
    queue.put(*"a" * 1000)
    for _ in range(300):
        queue.admit()
    (late,) = queue.put("b")
    assert late in (queue.admit(), queue.admit())


def test_answers_count_too() -> None:
    queue = Queue()
    queue.put(*"aaaabbbb")
    talker, quiet = queue.admit(), queue.admit()
    queue.end(talker, 40)
    queue.end(quiet, 4)
    assert queue.order(4) == "bbba", "36 tokens of answer that b has not had"


def test_idleness_saves_nothing_up() -> None:
    queue = Queue()
    queue.put(*"aaaaaaaaaa")
    (early,) = queue.put("b")
    queue.admit()
    assert queue.admit() is early
    for _ in range(5):
        queue.admit()
    queue.put(*"bbb")
    assert queue.order(4) in ("abab", "baba"), "b runs, was served less, and still takes turns"


def test_levels_go_first_and_nobody_waits_for_ever() -> None:
    queue = Queue()
    (low,) = queue.put("z", level=Level.FLEX)
    (middle,) = queue.put("y")
    (high,) = queue.put("x", level=Level.PRIORITY)
    assert [queue.admit() for _ in range(3)] == [high, middle, low]
    (low,) = queue.put("z", level=Level.FLEX)
    for _ in range(PATIENCE):
        queue.put("x", level=Level.PRIORITY)
        assert queue.admit() is not low
    queue.put("x", level=Level.PRIORITY)
    assert queue.admit() is low


def test_preempted_ones_go_first_and_are_charged_once() -> None:
    queue = Queue()
    queue.put(*"ab")
    first = queue.admit()
    queue.running.remove(first)
    queue.give_back(first)
    assert queue.admit() is first
    (again,) = queue.put("a")
    assert [queue.admit(), queue.admit()][-1] is again, "b has had nothing yet"


def test_a_walk_passes_over_what_is_left() -> None:
    queue = Queue()
    mine = queue.put(*"aaa")
    theirs = queue.put("b")
    seen = []
    for found in queue.candidates():
        seen.append(found)
        if found in theirs:
            queue.take(found)
            found.group.announced = True
            queue.running.append(found)
    assert seen[:3] == mine and seen[3:] == theirs and list(queue) == mine
    queue.check_invariants(queue.running)


@pytest.mark.parametrize("seed", range(60))
def test_walks(seed: int) -> None:
    """Whatever happens: nobody is lost, and while two tenants of one level both wait, neither is served much more than the other."""
    rng = random.Random(seed)
    queue = Queue()
    tenants = [chr(ord("a") + i) for i in range(rng.randrange(2, 6))]
    held: set[Sequence] = set()
    for _ in range(400):
        action = rng.random()
        if action < 0.5:
            level = rng.choice([Level.PRIORITY, Level.DEFAULT, Level.DEFAULT, Level.FLEX])
            held.update(queue.put(rng.choice(tenants), level=level, prompt=rng.randrange(1, 9)))
        elif action < 0.8 and len(queue):
            best = min(s.group.request.level for s in queue)
            preempted = bool(queue._preempted)
            before = dict(queue._passed_over)
            waiting = [s for s in queue if s.group.request.level == best]
            found = queue.admit()
            if not preempted and max(before.values()) < PATIENCE:
                assert found.group.request.level == best
                served = queue._served[found.group.request.tenant] - found.num_prompt_tokens
                assert served == min(
                    queue._served[s.group.request.tenant]
                    - (found.num_prompt_tokens if s.group.request.tenant == found.group.request.tenant else 0)
                    for s in waiting
                )
        elif action < 0.9 and queue.running:
            back = rng.choice(queue.running)
            queue.running.remove(back)
            queue.give_back(back)
            queue.check_invariants(queue.running)
        elif held:
            gone = rng.choice(sorted(held, key=lambda s: s.sequence_id))
            held.remove(gone)
            queue.end(gone, rng.randrange(20))
        assert set(queue) | set(queue.running) == held
    while len(queue):
        queue.admit()
    for each in list(queue.running):
        queue.end(each)
    assert not queue._served and not queue.num_unstarted_requests and not queue.num_unstarted_tokens
