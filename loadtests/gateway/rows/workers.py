"""Two workers beside one at the same load for each: what a request costs when it may come to either.

The load is an open loop: one that asks as fast as it gets answers would keep one worker busier than two, and who is busier takes more
requests at a time, which is cheaper. The second worker shares its core with the client and the models, which makes a request there
dearer for one worker alone, too: so the two are held against the mean of one on the one core and one on the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
from typing import TYPE_CHECKING

from loadtests.gateway import subject
from loadtests.gateway.ground import OTHER_CORE, OURS, PROXY_CORE, Ground, models
from loadtests.gateway.load.paced import paced
from loadtests.gateway.peers.work import PATH
from loadtests.gateway.rows.compared import at_most
from loadtests.measure import cpu_seconds
from loadtests.waiting import free_port
from router.runtime.settings import DataLayout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadtests.scoreboard import Row

_ONE = "one worker"
_LIMIT = 1.1
_RATE = 3_000.0


def rows(ground: Ground) -> list[Row]:
    """One row."""
    folder = ground.room("workers")
    with models(folder) as ports, contextlib.ExitStack() as running:
        started: list[tuple[int, list[int]]] = []
        for number, cpus in enumerate(([PROXY_CORE, OTHER_CORE], [PROXY_CORE], [OTHER_CORE])):
            data, port = DataLayout(folder / f"data-{number}"), free_port()
            data.create()
            asyncio.run(subject.publish_all(data, [subject.usual(ports)]))
            pids = running.enter_context(subject.workers(data, port, cpus, mirror=subject.on_core(OTHER_CORE)))
            started.append((port, pids[: len(cpus)]))
        both, *each = started
        measures = {
            OURS: lambda seconds: _micros(*both, seconds),
            _ONE: lambda seconds: statistics.mean(_micros(*one, seconds) for one in each),
        }
        spreads = ground.in_turns("workers", "µs", measures)
    work = f"the first row's work by two workers, {_RATE:,.0f}/s for each in an open loop: CPU of both per request"
    return at_most(work, "µs", spreads, _ONE, _LIMIT)


def _micros(port: int, pids: Sequence[int], seconds: int) -> float:
    before = cpu_seconds(pids)
    run = paced(port, PATH, rate=_RATE * len(pids), seconds=seconds, cpu=OTHER_CORE, warm_up_seconds=0)
    return (cpu_seconds(pids) - before) / len(run.latencies) * 1e6
