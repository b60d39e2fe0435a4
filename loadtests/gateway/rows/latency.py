"""Latency of the work of `post` from an open loop: p99 and p99.9, in short slices in turns.

Each proxy is asked at the same share of its own saturation, which is one core ÷ its CPU per request in a closed loop: half, or at which
generator, models and mirror still have the other core to themselves for whoever needs the most of it. So that a faster proxy is not
spared. What a model takes without any proxy stands beside it. All that is measured goes first on its core (`load/priority`).
"""

from __future__ import annotations

import os
import time
from functools import partial
from typing import TYPE_CHECKING

from loadtests.gateway.ground import OTHER_CORE, OURS, Ground, contenders, models
from loadtests.gateway.load.paced import Behind, Paced, paced
from loadtests.gateway.load.priority import put_first
from loadtests.gateway.peers.roster import ENVOY, HAPROXY, MIRRORED_NGINX
from loadtests.gateway.peers.work import PATH, Contender, Work
from loadtests.gateway.rows import slices
from loadtests.gateway.rows.compared import lateness, unless_late
from loadtests.gateway.rows.post import micros_per_request
from loadtests.measure import cpu_seconds, descendants
from loadtests.scoreboard import Row

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from loadtests.gateway.load.paced import Samples

SHARES = (0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.1)
OTHERS_SHARE = 0.9
"""Most of the other core that generator, models and mirror may take together."""
BARE = "no proxy"
LIMITS = {99: 1.2, 99.9: 1.5}
"""Percentile → at most so many times Envoy's."""
WORK = "the first row's work in an open loop"
_PROBE_SECONDS = 2.0
_ROUNDS = 3
"""Times the usual number: a p99.9 is the machine's pauses more than anybody's, and so needs more of them."""
_QUIET_SECONDS, _QUIET_SHARE, _QUIET_WITHIN_SECONDS = 0.5, 0.05, 60.0


def affordable(full: Mapping[str, float], others_micros: Callable[[str, float], float | None]) -> float:
    """Share of its saturation at which each proxy can be asked: the largest of `SHARES` at which for none of them all else takes more of
    the other core than `OTHERS_SHARE`.

    `full`: proxy → requests per second that fill its core; `others_micros`: of a proxy and a rate, CPU of all else per request, which is
    the less the more requests there are, since one wake serves several; None where the load gets no further.
    """
    for share in SHARES[:-1]:
        for name, most in full.items():
            micros = others_micros(name, share * most)
            if micros is None or micros * share * most > OTHERS_SHARE * 1e6:
                break
        else:
            return share
    return SHARES[-1]


def rows(ground: Ground) -> list[Row]:
    """p99 and p99.9, each at the same share of the own saturation, and watched: all at the most that Envoy can be asked."""
    try:
        return _measured(ground)
    except Behind as error:  # an open loop that gets no further has no percentiles
        reason = f"not available: {error}"
        return [
            Row(f"{WORK}: p{percent:g}; {reason}", "µs", None, {}, None, f"≤ {limit:g} × {ENVOY}", None)
            for percent, limit in LIMITS.items()
        ]


def _measured(ground: Ground) -> list[Row]:
    folder = ground.room("latency")
    names = ground.taking_part(ENVOY, MIRRORED_NGINX, HAPROXY)
    with models(folder) as ports, contenders(folder, names, Work(ports)) as running:
        mirrors = {pid for one in running.values() for pid in one.beside}
        put_first(pid for pid in descendants(os.getpid()) if pid != os.getpid() and pid not in mirrors)
        full = {name: 1e6 / micros_per_request(one, 1) for name, one in running.items()}
        for one in running.values():
            _wait_for_mirror(one)
        share = affordable(full, partial(_others_micros, ground, running))
        own = {name: share * most for name, most in full.items()}
        found = _slices(ground, own, running, ports["blue"], _ROUNDS * ground.sizes.slices)
        same = own.get(ENVOY, min(own.values()))
        alike = _slices(ground, dict.fromkeys(running, same), running, ports["blue"], ground.sizes.slices)
    each = ", ".join(f"{name} {rate:,.0f}/s" for name, rate in own.items())
    made = []
    for percent, limit in LIMITS.items():
        text = f"{WORK}, each at {share:.0%} of its core's saturation ({each}): p{percent:g}"
        made += judged(text, percent, found, limit)
    return [*made, *judged(f"{WORK}, all at {same:,.0f}/s: p99", 99, alike, None)]


def judged(work: str, percent: float, found: Mapping[str, Sequence[Paced]], limit: float | None) -> list[Row]:
    """The row, and none where Envoy did not take part; None watches it without a goal."""
    if ENVOY not in found:
        return []
    latencies: dict[str, list[Samples]] = slices.latencies(found)
    figures = {name: slices.figure(percent, one) for name, one in latencies.items()}
    ours = figures.pop(OURS)
    ratio = ours / figures[ENVOY]
    noise = slices.noise_of_ratio(percent, latencies[OURS], latencies[ENVOY])
    goal = (
        f"≤ {limit:g} × {ENVOY}; noise {noise:.1%}" if limit is not None else f"watched: ÷ {ENVOY}; noise {noise:.1%}"
    )
    met = slices.verdict(ratio, limit, noise) if limit is not None else None
    row = Row(work, "µs", ours, figures, ratio, goal, met)
    # What requests are late by themselves is in both figures; if the goal is met were it in Envoy's alone, it is met.
    own = figures[ENVOY] - lateness(percent, found[BARE])
    if met and limit is not None and own > 0 and slices.verdict(ours / own, limit, noise):
        return [row]
    return [unless_late(row, percent, found[BARE], peer=ENVOY)]


def _others_micros(ground: Ground, running: Mapping[str, Contender], name: str, rate: float) -> float | None:
    """CPU per request of the generator, the models and the mirror at this rate; None where answers stay away."""
    proxies = {pid for contender in running.values() for pid in contender.pids}
    others = [pid for pid in descendants(os.getpid()) if pid not in proxies and pid != os.getpid()]
    before = cpu_seconds(others)
    try:
        run = _slice(running[name].port, rate, seconds=_PROBE_SECONDS, warm_up_seconds=0)
    except Behind:
        ground.say(f"latency: {name} at {rate:,.0f}/s: answers stay away")
        return None
    finally:
        _wait_for_mirror(running[name])
    micros = (cpu_seconds(others) - before) / len(run.latencies) * 1e6 + run.cpu_share / rate * 1e6
    ground.say(f"latency: {name} at {rate:,.0f}/s: all else takes {micros:.0f} µs a request")
    return micros


def _wait_for_mirror(one: Contender) -> None:
    """Until what a flood has left to do is done. Raises TimeoutError when there is no end of it."""
    ends = time.monotonic() + _QUIET_WITHIN_SECONDS
    while True:
        before = cpu_seconds(one.beside)
        time.sleep(_QUIET_SECONDS)
        if cpu_seconds(one.beside) - before <= _QUIET_SHARE * _QUIET_SECONDS:
            return
        if time.monotonic() > ends:
            raise TimeoutError(f"the mirror beside {one.name} is still busy after {_QUIET_WITHIN_SECONDS:g} s")


def _slice(port: int, rate: float, *, seconds: float = slices.SECONDS, warm_up_seconds: float = 0.2) -> Paced:
    return paced(port, PATH, rate=rate, seconds=seconds, cpu=OTHER_CORE, warm_up_seconds=warm_up_seconds, first=True)


def _slices(
    ground: Ground, asked: Mapping[str, float], running: Mapping[str, Contender], model: int, rounds: int
) -> dict[str, list[Paced]]:
    """Each in turns, without any proxy at our rate too."""
    measures = {name: partial(_slice, one.port, asked[name]) for name, one in running.items()}
    measures[BARE] = partial(_slice, model, asked[OURS])
    found = slices.in_turns(measures, rounds, lambda words: ground.say(f"latency: {words}"))
    for name, runs in found.items():
        told = ", ".join(
            f"p{at:g} {slices.figure(at, [run.latencies for run in runs]):,.0f} µs" for at in (50, 99, 99.9)
        )
        late = slices.figure(99, [run.lateness for run in runs])
        ground.say(
            f"latency: {name:13} at {asked.get(name, asked[OURS]):,.0f}/s {told}; requests left {late:,.0f} µs late at p99"
        )
    return found
