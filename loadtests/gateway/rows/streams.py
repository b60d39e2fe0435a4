"""Server-sent events: CPU per chunk that is passed on, with 1,000 streams open.

The issue is a cost per chunk, so no proxy may be so busy that several chunks reach it as one: the rate is 100 chunks/s per stream or
what leaves every core that takes part 40 % of rest, whichever is less, found by a first round at 10.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from loadtests.gateway.ground import OTHER_CORE, Ground, contenders
from loadtests.gateway.load.held import held, source
from loadtests.gateway.peers.roster import ENVOY, HAPROXY, NGINX
from loadtests.gateway.peers.work import DEPLOYMENTS, Contender, Work
from loadtests.gateway.rows.compared import at_most
from loadtests.measure import cpu_seconds
from loadtests.waiting import free_port

if TYPE_CHECKING:
    from loadtests.scoreboard import Row

WANTED_RATE, PROBE_RATE = 100.0, 10.0
BUSY = 0.6
"""Most of a core that anybody may need."""
_ARRIVED = 0.8
"""Least share of the chunks that must arrive for a verdict."""
_SETTLE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Passed:
    """Chunks that reached the clients."""

    per_second: float
    micros: float
    """CPU of the proxy per chunk."""
    source_micros: float


def rows(ground: Ground) -> list[Row]:
    """One row."""
    folder, port, count = ground.room("streams"), free_port(), ground.sizes.streams
    work = Work(dict.fromkeys(DEPLOYMENTS, port), mirror=False, streaming=True, concurrency=2 * count)
    rates: list[float] = []
    with contenders(folder, ground.taking_part(NGINX, HAPROXY, ENVOY), work) as running:
        with source(folder / "probe", port, 1 / PROBE_RATE, OTHER_CORE) as pid:
            probes = [passed(one, count, pid, 2) for one in running.values()]
        rate = affordable(count, max(max(one.micros, one.source_micros) for one in probes))
        ground.say(f"streams: {count} with {rate:.0f} chunks/s each")

        def measure(one: Contender, seconds: int) -> float:
            found = passed(one, count, pid, seconds)
            rates.append(found.per_second)
            return found.micros

        with source(folder / "source", port, 1 / rate, OTHER_CORE) as pid:
            measures = {name: (lambda seconds, one=one: measure(one, seconds)) for name, one in running.items()}
            spreads = ground.in_turns("streams", "µs/chunk", measures)
    text = f"{count:,} open SSE streams, {rate:.0f} chunks/s each (of 100: what leaves each core some rest): proxy CPU per chunk"
    return [unless_missing(row, min(rates), count * rate) for row in at_most(text, "µs", spreads, NGINX, 1.1)]


def unless_missing(row: Row, arrived: float, asked: float) -> Row:
    """The row, without a verdict when a round got much less than it asked for: who is late gets several chunks as one."""
    if arrived >= _ARRIVED * asked:
        return row
    reason = f"not judged: the machine is busy, in one round {arrived:,.0f} of {asked:,.0f} chunks/s arrived"
    return replace(row, met=None, goal=f"{row.goal}; {reason}")


def affordable(streams: int, micros: float) -> float:
    """Chunks per second and stream when the busiest of all needs `micros` of CPU per chunk."""
    return min(WANTED_RATE, max(1.0, BUSY * 1e6 / micros / streams))


def passed(one: Contender, count: int, source_pid: int, seconds: float) -> Passed:
    """Hold `count` streams through `one` and see what arrives. Raises RuntimeError when a stream ended."""
    with held(one.port, count, cpu=OTHER_CORE) as clients:
        clients.opened()
        time.sleep(_SETTLE_SECONDS)
        before, began = clients.account(), time.monotonic()
        proxy, behind = cpu_seconds(one.pids), cpu_seconds([source_pid])
        time.sleep(seconds)
        after, took = clients.account(), time.monotonic() - began
        proxy, behind = cpu_seconds(one.pids) - proxy, cpu_seconds([source_pid]) - behind
    chunks = after.marks - before.marks
    if after.ended or after.least <= before.least:
        raise RuntimeError(f"{one.name}: {after.ended} of {count} streams ended, or one of them stood still")
    return Passed(chunks / took, proxy / chunks * 1e6, behind / chunks * 1e6)
