"""50,000 open SSE streams through the gateway workers of one machine: their memory, and that each gets its bytes.

A process may hold so many descriptors, and a stream takes two of them in a worker; so there are as many workers, sources and clients
as that needs.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from loadtests.gateway import subject
from loadtests.gateway.load.descriptors import raise_limit, usable
from loadtests.gateway.load.held import Held, held, source
from loadtests.gateway.peers.work import ENDPOINT
from loadtests.measure import resident_bytes
from loadtests.scoreboard import Row
from loadtests.waiting import free_port
from router.runtime.settings import DataLayout

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadtests.gateway.ground import Ground

_CHUNKS = 2
"""That each stream must get once all are open."""
_SECONDS = 180.0
"""For that."""
_MOST_PROCESSES = 16
_LIMIT_KB = 20
_BEFORE = 200


def rows(ground: Ground) -> list[Row]:
    """One row."""
    raise_limit()
    streams, gateways, others = plan(ground.sizes.open_streams, usable(raise_limit()))
    folder, ports = ground.room("open-streams"), [free_port() for _ in range(others)]
    data = DataLayout(folder / "data")
    data.create()
    endpoint = subject.published(
        ENDPOINT, {"blue": ports}, traffic={"blue": 100}, mirror_traffic={}, concurrency=100_000
    )  # fmt: skip
    asyncio.run(subject.publish_all(data, [endpoint]))
    with contextlib.ExitStack() as running:
        for number, port in enumerate(ports):
            running.enter_context(source(folder / f"source-{number}", port, ground.sizes.period_seconds, None))
        port = free_port()
        pids = running.enter_context(subject.workers(data, port, [None] * gateways, mirror=None))
        with held(port, _BEFORE * gateways) as clients:
            clients.opened()
        before = _resident(pids)
        shares = [streams // others + (number < streams % others) for number in range(others)]
        began = time.monotonic()
        all_of_them = [
            running.enter_context(held(port, share, address=f"127.0.0.{10 + number}"))
            for number, share in enumerate(shares)
        ]
        for one in all_of_them:
            one.opened()
        ground.say(f"open streams: {streams:,} are open after {time.monotonic() - began:.0f} s")
        least, lost = _served(all_of_them, ground.say)
        megabytes = (_resident(pids) - before) / 1e6
    kilobytes = megabytes * 1000 / streams
    work = (
        f"{streams:,} open SSE streams through {gateways} workers, of which {lost:,} ended and each other got at least {least} "
        f"chunks: memory of the workers per stream ({megabytes:,.0f} MB in all)"
    )
    goal, met = f"≤ {_LIMIT_KB} KB, none ended", kilobytes <= _LIMIT_KB and not lost
    return [Row(work, "KB", kilobytes, {}, None, goal, met)]


def plan(streams: int, descriptors: int) -> tuple[int, int, int]:
    """(streams, gateway workers, processes of clients and as many of sources) that `descriptors` for each process allow."""
    streams = min(streams, _MOST_PROCESSES * descriptors // 2)
    return streams, max(1, -(-2 * streams // descriptors)), max(1, -(-streams // descriptors))


def _served(clients: list[Held], say: Callable[[str], None]) -> tuple[int, int]:
    """Wait until each open stream has `_CHUNKS` more; returns (the fewest that one has, streams that ended)."""
    wanted = 1 + _CHUNKS
    ends = time.monotonic() + _SECONDS
    while True:
        accounts = [one.account() for one in clients]
        lost, least = sum(account.ended for account in accounts), min(account.least for account in accounts)
        say(f"open streams: {lost:,} ended, each other has got at least {least} of {wanted} chunks")
        if least >= wanted:
            return least, lost
        if time.monotonic() > ends:
            raise TimeoutError(f"after {_SECONDS:g} s a stream has {least} of {wanted} chunks")
        time.sleep(2)


def _resident(pids: list[int]) -> int:
    return sum(resident_bytes(pid) for pid in pids)
