"""Ports for a server of our own."""

from __future__ import annotations

import random
from pathlib import Path

from ernie_backend.cli.background import free_ports


def test_free_ports_are_none_that_others_are_given() -> None:
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0])
    ports = free_ports(64)
    assert len(set(ports)) == 64 and all(10_000 <= port < max(first, 11_000) for port in ports)


def test_whoever_runs_beside_draws_others() -> None:
    """Also where both have seeded `random` alike, as hypothesis does."""
    drawn = []
    for _ in range(2):
        random.seed(0)
        drawn.append(free_ports(8))
    assert drawn[0] != drawn[1]
