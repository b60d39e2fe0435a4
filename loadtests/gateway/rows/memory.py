"""What a connection takes of a proxy's memory: resident set with thousands of them, less that before, by their number.

The kernel's buffers are not in it. Upstream connections that a proxy keeps are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from loadtests.gateway.ground import OTHER_CORE, OURS, Ground, contenders, models
from loadtests.gateway.load.held import held, source
from loadtests.gateway.peers.roster import ENVOY, HAPROXY, NGINX
from loadtests.gateway.peers.work import DEPLOYMENTS, Contender, Work
from loadtests.measure import resident_bytes
from loadtests.scoreboard import Row
from loadtests.waiting import free_port

if TYPE_CHECKING:
    from collections.abc import Mapping

_PERIOD_SECONDS = 5.0
"""Between two chunks of an open stream."""
_BEFORE = 200
"""Connections that come and go before: what a proxy makes once is no cost of one more."""


def rows(ground: Ground) -> list[Row]:
    """Two rows."""
    count, names = ground.sizes.connections, ground.taking_part(NGINX, HAPROXY, ENVOY)
    folder = ground.room("memory")
    with models(folder) as ports, contenders(folder, names, Work(ports, mirror=False)) as running:
        idle = _kilobytes(ground, running, count)
    port, folder = free_port(), ground.room("memory")
    work = Work(dict.fromkeys(DEPLOYMENTS, port), mirror=False, streaming=True, concurrency=2 * count)
    with source(folder / "source", port, _PERIOD_SECONDS, OTHER_CORE), contenders(folder, names, work) as running:
        streams = _kilobytes(ground, running, count)
    return [
        _row(f"one of {count:,} idle keep-alive connections: resident memory", idle, 10),
        _row(f"one of {count:,} open SSE streams: resident memory", streams, 20),
    ]


def _kilobytes(ground: Ground, running: Mapping[str, Contender], count: int) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, one in running.items():
        with held(one.port, _BEFORE, cpu=OTHER_CORE) as clients:
            clients.opened()
        before = _resident(one)
        with held(one.port, count, cpu=OTHER_CORE) as clients:
            if (account := clients.opened()).ended:
                raise RuntimeError(f"{name}: {account.ended} of {count} connections ended")
            found[name] = (_resident(one) - before) / count / 1000
        ground.say(f"memory: {name:13} {found[name]:6.1f} KB a connection")
    return found


def _resident(one: Contender) -> int:
    return sum(resident_bytes(pid) for pid in one.pids)


def _row(work: str, found: dict[str, float], limit: float) -> Row:
    ours = found.pop(OURS)
    return Row(work, "KB", ours, found, None, f"≤ {limit:g} KB", ours <= limit)
