"""Two workers beside one: what a request costs when it may come to either. The client takes the time that is left."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import TYPE_CHECKING

from loadtests.gateway import subject
from loadtests.gateway.ground import OTHER_CORE, OURS, PROXY_CORE, Ground, models
from loadtests.gateway.peers.work import Contender
from loadtests.gateway.rows.compared import at_most
from loadtests.gateway.rows.post import micros_per_request
from loadtests.waiting import free_port
from router.runtime.settings import DataLayout

if TYPE_CHECKING:
    from loadtests.scoreboard import Row

_ONE = "one worker"
_LIMIT = 1.1


def rows(ground: Ground) -> list[Row]:
    """One row."""
    folder = ground.room("workers")
    with models(folder) as ports, contextlib.ExitStack() as running:
        measures = {}
        for name, cpus in ((OURS, [PROXY_CORE, OTHER_CORE]), (_ONE, [PROXY_CORE])):
            data, port = DataLayout(folder / f"data-{len(cpus)}"), free_port()
            data.create()
            asyncio.run(subject.publish_all(data, [subject.usual(ports)]))
            pids = running.enter_context(subject.workers(data, port, cpus, mirror=subject.on_core(OTHER_CORE)))
            one = Contender(name, port, tuple(pids[: len(cpus)]))
            measures[name] = partial(micros_per_request, one, spare=True)
        spreads = ground.in_turns("workers", "µs", measures)
    work = "the first row's work by two workers, the client at the lowest priority: CPU of both per request"
    return at_most(work, "µs", spreads, _ONE, _LIMIT)
