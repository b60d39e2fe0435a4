"""Live latency with a mirror to a shadow that does harm, beside that without a mirror: p50 and p99 of short open-loop slices in turns.

All cases are endpoints of one gateway and take turns of half a second, in another order each round. Two of them have no mirror: what
they may differ by is the noise. Mirror process and shadows have what the live side leaves of their core (`load/priority`), because on two
cores they would otherwise take the generator's and the model's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from functools import partial
from typing import TYPE_CHECKING

from loadtests.gateway import subject
from loadtests.gateway.ground import OTHER_CORE, PROXY_CORE, Ground, models
from loadtests.gateway.load.paced import Behind, Paced, paced
from loadtests.gateway.load.priority import put_first
from loadtests.gateway.peers.process import pinned
from loadtests.gateway.peers.work import LIVE_PERCENT
from loadtests.gateway.rows import slices
from loadtests.gateway.rows.compared import unless_late
from loadtests.measure import descendants
from loadtests.scoreboard import Row
from loadtests.waiting import free_port
from router.runtime.settings import DataLayout

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from loadtests.gateway.load.paced import Samples

PLAIN, AGAIN = "no mirror", "no mirror, again"
KINDS = ("dead", "slow", "resetting", "deaf")
PERCENTS = (10, 100)
LIMIT = 1.02
_RATE = 2_000.0
_WORDS = "(shadow dead, 30 s slow, resetting, never reading; mirror 10 and 100 %)"


def rows(ground: Ground) -> list[Row]:
    """p50 and p99."""
    try:
        with _gateway(ground) as port:
            measures = {name: partial(_slice, port, name) for name in (PLAIN, AGAIN, *_cases())}
            found = slices.in_turns(
                measures, ground.sizes.slices, lambda words: ground.say(f"hostile shadows: {words}")
            )
    except Behind as error:
        return [_row_without(percent, f"not available: {error}") for percent in (50, 99)]
    latencies = slices.latencies(found)
    return [unless_late(judged(percent, latencies), percent, found[PLAIN]) for percent in (50, 99)]


def _slice(port: int, case: str) -> Paced:
    return paced(port, _path(case), rate=_RATE, seconds=slices.SECONDS, connections=32, cpu=OTHER_CORE, first=True)


def _row_without(percent: float, reason: str) -> Row:
    return Row(f"{_work(percent)}; {reason}", "µs", None, {}, None, f"≤ {LIMIT:g} × no mirror", None)


def _work(percent: float) -> str:
    return f"live p{percent:g} of 1 KB POSTs at {_RATE:,.0f}/s with a hostile shadow {_WORDS}"


def judged(percent: float, found: Mapping[str, Sequence[Samples]]) -> Row:
    """The row of the worst case; `found` has the slices of each case, in the order of the rounds."""
    figures = {name: slices.figure(percent, one) for name, one in found.items()}
    noise = slices.noise_of_equals(percent, found[AGAIN], found[PLAIN], among=len(_cases()))
    worst = max(_cases(), key=lambda name: figures[name])
    ratio = figures[worst] / figures[PLAIN]
    work = f"{_work(percent)}: the worst, {worst}"
    others = {name: value for name, value in figures.items() if name != worst}
    goal = f"≤ {LIMIT:g} × no mirror; noise {noise:.1%}"
    return Row(work, "µs", figures[worst], others, ratio, goal, slices.verdict(ratio, LIMIT, noise))


def _cases() -> list[str]:
    return [f"{kind} {percent} %" for kind in KINDS for percent in PERCENTS]


def _name(case: str) -> str:
    return case.replace(",", "").replace(" %", "").replace(" ", "-")


def _path(case: str) -> str:
    return f"/endpoints/{_name(case)}/score"


@contextlib.contextmanager
def _gateway(ground: Ground) -> Iterator[int]:
    folder = ground.room("hostile")
    shadows = {kind: free_port() for kind in KINDS}  # nobody listens on that of the dead one
    command = [sys.executable, "-m", "loadtests.gateway.load.hostile_shadows", "--slow", str(shadows["slow"])]
    command += ["--resetting", str(shadows["resetting"]), "--deaf", str(shadows["deaf"])]
    data, port = DataLayout(folder / "data"), free_port()
    data.create()
    with contextlib.ExitStack() as running:
        ports = running.enter_context(models(folder))
        put_first(one for one in descendants(os.getpid()) if one != os.getpid())
        running.enter_context(pinned(command, folder / "shadows", shadows["slow"], OTHER_CORE))
        live = {name: [ports[name]] for name in LIVE_PERCENT}
        endpoints = [
            subject.published(_name(case), live, traffic=LIVE_PERCENT, mirror_traffic={}) for case in (PLAIN, AGAIN)
        ]
        endpoints += [
            subject.published(
                _name(f"{kind} {percent} %"), live | {"candidate": [shadows[kind]]},
                traffic=LIVE_PERCENT, mirror_traffic={"candidate": percent},
            )
            for kind in KINDS
            for percent in PERCENTS
        ]  # fmt: skip
        asyncio.run(subject.publish_all(data, endpoints))
        mirror = subject.on_core(OTHER_CORE)
        worker, _ = running.enter_context(subject.workers(data, port, [PROXY_CORE], mirror=mirror))
        put_first([worker])
        yield port
