"""In which order waiting sequences are admitted: preempted ones, then by level, and within a level in fair turns among tenants.

Ints only: it knows no block, no budget and no clock. A tenant's turn comes when it has been served least, counted in tokens: those of its
prompts when they are admitted, those of its answers when they end. So a tenant with a thousand waiting requests holds up another by one
request, not by a thousand. Who has had nothing waiting begins at the level of those who have: idleness saves nothing up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from ..protocol import Level
from .request import Sequence

PATIENCE = 32
"""Admissions of higher levels that a waiting one sits through before it has a turn: whoever waits is served some day."""


class FairQueue:
    """The waiting sequences. `add` for new ones, `give_back` for preempted ones; each leaves by `take` (admitted) or `remove` (ended)."""

    def __init__(self) -> None:
        self._preempted: deque[Sequence] = deque()
        self._levels: dict[int, dict[str, deque[Sequence]]] = {level: {} for level in Level}
        """Level → tenant → its sequences, in the order of their coming; no empty ones."""
        self._passed_over: dict[int, int] = dict.fromkeys(self._levels, 0)
        self._served: dict[str, int] = {}
        """Tokens of each tenant that has unfinished sequences, from wherever it began."""
        self._unfinished: dict[str, int] = {}
        self._unstarted: dict[str, int] = {}
        """Requests of which nothing was ever admitted → tokens of their prompts."""
        self.num_unstarted_tokens = 0
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Sequence]:
        """All of them, in no order that matters."""
        yield from self._preempted
        for tenants in self._levels.values():
            for queue in tenants.values():
                yield from queue

    @property
    def num_unstarted_requests(self) -> int:
        return len(self._unstarted)

    def is_unstarted(self, key: str) -> bool:
        """Whether the request waits for its first token to be computed."""
        return key in self._unstarted

    def add(self, sequence: Sequence) -> None:
        request = sequence.group.request
        if sequence.index == 0:
            self._unstarted[request.key] = sequence.num_prompt_tokens
            self.num_unstarted_tokens += sequence.num_prompt_tokens
        tenant = request.tenant
        waiting = {name for tenants in self._levels.values() for name in tenants}
        if tenant not in waiting:
            least = min((self._served[name] for name in waiting), default=0)
            self._served[tenant] = max(self._served.get(tenant, least), least)
        self._unfinished[tenant] = self._unfinished.get(tenant, 0) + 1
        self._levels[request.level].setdefault(tenant, deque()).append(sequence)
        self._size += 1

    def give_back(self, sequence: Sequence) -> None:
        """A preempted one goes before all others: what it has computed is lost time for everybody until it ends."""
        self._preempted.appendleft(sequence)
        self._size += 1

    def candidates(self) -> Iterator[Sequence]:
        """In the order of admission. The caller may `take` what it has just been given, and does nothing else to the queue meanwhile; what
        it leaves is passed over for this walk."""
        passed = 0
        while passed < len(self._preempted):
            before = self._size
            yield self._preempted[passed]
            passed += self._size == before
        left: dict[tuple[int, str], int] = {}
        while (turn := self._turn(left)) is not None:
            before = self._size
            yield self._levels[turn[0]][turn[1]][left.get(turn, 0)]
            if self._size == before:
                left[turn] = left.get(turn, 0) + 1

    def take(self, sequence: Sequence) -> None:
        """It is admitted: its tenant is charged for its prompt, which choices share, and levels below that wait have seen one more pass."""
        if self._leave(sequence):
            return
        request = sequence.group.request
        self._start(request.key)
        self._served[request.tenant] += sequence.num_prompt_tokens if sequence.index == 0 else 1
        self._passed_over[request.level] = 0
        for level in self._levels:
            if level > request.level and self._levels[level]:
                self._passed_over[level] += 1

    def remove(self, sequence: Sequence) -> None:
        """It ended while it waited."""
        self._leave(sequence)

    def ended(self, sequence: Sequence) -> None:
        """Of every sequence, waiting or running before: its tenant is charged for the answer, and forgotten with its last one."""
        tenant = sequence.group.request.tenant
        if sequence.group.is_finished:
            self._start(sequence.group.request.key)
        self._unfinished[tenant] -= 1
        if self._unfinished[tenant]:
            self._served[tenant] += len(sequence.output_token_ids)
        else:
            del self._unfinished[tenant], self._served[tenant]

    def _start(self, key: str) -> None:
        self.num_unstarted_tokens -= self._unstarted.pop(key, 0)

    def _turn(self, left: dict[tuple[int, str], int]) -> tuple[int, str] | None:
        """(level, tenant) whose turn it is, among those with more sequences than were left in this walk."""
        impatient = [level for level in self._levels if self._passed_over[level] >= PATIENCE and self._levels[level]]
        for level in (*impatient, *self._levels):
            tenants = [name for name, queue in self._levels[level].items() if left.get((level, name), 0) < len(queue)]
            if tenants:
                return level, min(tenants, key=self._served.__getitem__)
        return None

    def _leave(self, sequence: Sequence) -> bool:
        """Whether it was a preempted one."""
        self._size -= 1
        if sequence in self._preempted:
            self._preempted.remove(sequence)
            return True
        request = sequence.group.request
        tenants = self._levels[request.level]
        tenants[request.tenant].remove(sequence)
        if not tenants[request.tenant]:
            del tenants[request.tenant]
        if not tenants:
            self._passed_over[request.level] = 0
        return False

    def check_invariants(self, running: list[Sequence]) -> None:
        """The counts are those of the sequences that wait or run, and nothing is kept of anybody else."""
        held = list(self)
        assert len(held) == self._size == len({id(sequence) for sequence in held})
        counts: dict[str, int] = {}
        for sequence in (*held, *running):
            tenant = sequence.group.request.tenant
            counts[tenant] = counts.get(tenant, 0) + 1
        assert counts == self._unfinished and counts.keys() == self._served.keys(), (counts, self._unfinished)
        unstarted = {s.group.request.key: s.num_prompt_tokens for s in held if not s.group.announced}
        assert unstarted == self._unstarted and sum(unstarted.values()) == self.num_unstarted_tokens
        for level, tenants in self._levels.items():
            assert all(tenants.values()), "no empty queue is kept"
            assert tenants or not self._passed_over[level]
            for tenant, queue in tenants.items():
                assert all((s.group.request.level, s.group.request.tenant) == (level, tenant) for s in queue)
