"""Live latency with a mirror to a shadow that does harm, beside that without a mirror: p50 and p99 of short open-loop slices in turns.

All cases are endpoints of one gateway and take turns of half a second, in another order each round. Two of them have no mirror: what
they may differ by is the noise. The mirror process has what the live side leaves of its core, because on two cores it would otherwise take
the model's.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
from typing import TYPE_CHECKING

import numpy as np

from loadtests.gateway import subject
from loadtests.gateway.ground import OTHER_CORE, PROXY_CORE, Ground, models
from loadtests.gateway.load.paced import Behind, Paced, Samples, paced, percentile
from loadtests.gateway.peers.process import pinned
from loadtests.gateway.peers.work import LIVE_PERCENT
from loadtests.gateway.rows.compared import unless_late
from loadtests.scoreboard import Row
from loadtests.waiting import free_port
from router.runtime.settings import DataLayout

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

PLAIN, AGAIN = "no mirror", "no mirror, again"
KINDS = ("dead", "slow", "resetting", "deaf")
PERCENTS = (10, 100)
LIMIT = 1.02
_RATE, _SECONDS = 2_000.0, 0.5
_RESAMPLES = 200
_WORDS = "(shadow dead, 30 s slow, resetting, never reading; mirror 10 and 100 %)"


def rows(ground: Ground) -> list[Row]:
    """p50 and p99."""
    try:
        found = _measured(ground)
    except Behind as error:
        return [_row_without(percent, f"not available: {error}") for percent in (50, 99)]
    latencies = {name: [run.latencies for run in runs] for name, runs in found.items()}
    return [unless_late(judged(percent, latencies), found[PLAIN]) for percent in (50, 99)]


def _measured(ground: Ground) -> dict[str, list[Paced]]:
    """The slices of each case."""
    found: dict[str, list[Paced]] = {name: [] for name in (PLAIN, AGAIN, *_cases())}
    order = random.Random(1)
    with _gateway(ground) as port:
        for turn in range(ground.sizes.slices + 1):
            for name in order.sample(list(found), len(found)):
                run = paced(port, _path(name), rate=_RATE, seconds=_SECONDS, connections=32, cpu=OTHER_CORE)
                if turn:
                    found[name].append(run)
            ground.say(f"hostile shadows: round {turn}/{ground.sizes.slices}")
    return found


def _row_without(percent: float, reason: str) -> Row:
    return Row(f"{_work(percent)}; {reason}", "µs", None, {}, None, f"≤ {LIMIT:g} × no mirror", None)


def _work(percent: float) -> str:
    return f"live p{percent:g} of 1 KB POSTs at {_RATE:,.0f}/s with a hostile shadow {_WORDS}"


def judged(percent: float, found: Mapping[str, Sequence[Samples]]) -> Row:
    """The row of the worst case; `found` has the slices of each case, in the order of the rounds.

    It is neither met nor missed when the ratio is over the limit by no more than the noise.
    """
    figures = {name: percentile(np.concatenate(slices), percent) for name, slices in found.items()}
    noise = _noise(percent, found[PLAIN], found[AGAIN])
    worst = max(_cases(), key=lambda name: figures[name])
    ratio = figures[worst] / figures[PLAIN]
    met = True if ratio <= LIMIT else None if ratio <= LIMIT + noise else False
    work = f"{_work(percent)}: the worst, {worst}"
    others = {name: value for name, value in figures.items() if name != worst}
    return Row(work, "µs", figures[worst], others, ratio, f"≤ {LIMIT:g} × no mirror; noise {noise:.1%}", met)


def _noise(percent: float, one: Sequence[Samples], other: Sequence[Samples]) -> float:
    """What two equal cases may differ by: the 95th percentile of |ratio − 1| over rounds drawn with replacement (bootstrap)."""
    chance = np.random.default_rng(1)
    differences = []
    for _ in range(_RESAMPLES):
        rounds = chance.integers(len(one), size=len(one))
        figures = [
            percentile(np.concatenate([slices[number] for number in rounds]), percent) for slices in (one, other)
        ]
        differences.append(abs(figures[1] / figures[0] - 1))
    return float(np.percentile(differences, 95))


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
    with models(folder) as ports, pinned(command, folder / "shadows", shadows["slow"], OTHER_CORE):
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
        idle = [*subject.on_core(OTHER_CORE), "chrt", "--idle", "0"]
        with subject.workers(data, port, [PROXY_CORE], mirror=idle):
            yield port
