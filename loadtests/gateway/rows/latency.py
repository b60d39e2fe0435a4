"""Latency at half of what a core can carry, from an open loop: p99 and p99.9 of the work of `post`.

Each proxy is asked at half of its own saturation, which is one core ÷ its CPU per request in a closed loop. All that is not the
proxy shares one core, and must not be what is waited for: where that core would be more than 60 % busy, the rate is lower, and the
row says so. What a model takes without any proxy stands beside it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loadtests.gateway.ground import OTHER_CORE, OURS, Ground, contenders, models
from loadtests.gateway.load.paced import Behind, Paced, paced, percentile
from loadtests.gateway.peers.roster import ENVOY, HAPROXY, MIRRORED_NGINX
from loadtests.gateway.peers.work import PATH, Contender, Work
from loadtests.gateway.rows.compared import at_most, unless_late
from loadtests.gateway.rows.post import micros_per_request
from loadtests.measure import Spread, cpu_seconds, descendants
from loadtests.scoreboard import Row

if TYPE_CHECKING:
    from collections.abc import Mapping


SHARE = 0.5
OTHERS_SHARE = 0.6
"""Most of the other core that generator, models and mirror may take together."""
BARE = "no proxy"
_PROBE_RATE, _PROBE_SECONDS = 2_000.0, 2.0
_LEAST_SECONDS = 5.0
"""Of a measurement: p99.9 needs samples beyond it."""
WORK = "the first row's work in an open loop"


@dataclass(frozen=True, slots=True)
class Pace:
    """At which rate a proxy is asked, and why not faster."""

    saturation: float
    """Requests per second that fill its core."""
    others_micros: float
    """CPU of everything else per request."""

    @property
    def rate(self) -> float:
        """Requests per second."""
        return min(SHARE * self.saturation, OTHERS_SHARE * 1e6 / self.others_micros)

    @property
    def share(self) -> float:
        """Of its core."""
        return self.rate / self.saturation


def rows(ground: Ground) -> list[Row]:
    """p99 and p99.9, each at half of the own saturation, and watched: all at Envoy's rate."""
    try:
        return _measured(ground)
    except Behind as error:  # an open loop that gets no further has no percentiles
        reason = f"not available: {error}"
        return [
            Row(f"{WORK}: {name}; {reason}", "µs", None, {}, None, f"≤ {limit:g} × {ENVOY}", None)
            for name, limit in (("p99", 1.2), ("p99.9", 1.5))
        ]


def _measured(ground: Ground) -> list[Row]:
    folder, seconds = ground.room("latency"), max(_LEAST_SECONDS, ground.sizes.seconds)
    names = ground.taking_part(ENVOY, MIRRORED_NGINX, HAPROXY)
    with models(folder) as ports, contenders(folder, names, Work(ports)) as running:
        paces = {name: _pace(one, running) for name, one in running.items()}
        for name, pace in paces.items():
            ground.say(f"latency: {name} is full at {pace.saturation:.0f}/s, asked at {pace.rate:.0f}/s")
        runs = _runs(ground, {name: pace.rate for name, pace in paces.items()}, running, ports["blue"], seconds)
        rate = paces[ENVOY].rate if ENVOY in paces else min(pace.rate for pace in paces.values())
        same = _runs(ground, dict.fromkeys(paces, rate), running, ports["blue"], seconds)
    each = ", ".join(f"{name} {pace.rate:,.0f}/s = {pace.share:.0%}" for name, pace in paces.items())
    made = at_most(f"{WORK} ({each} of its core's saturation): p99", "µs", _spreads(runs, 99), ENVOY, 1.2)
    made += at_most("the same: p99.9", "µs", _spreads(runs, 99.9), ENVOY, 1.5)
    made += at_most(f"{WORK}, all at {rate:,.0f}/s: p99", "µs", _spreads(same, 99), ENVOY, None)
    return [unless_late(row, runs[BARE]) for row in made]


def _pace(one: Contender, running: Mapping[str, Contender]) -> Pace:
    micros = micros_per_request(one, 1)
    proxies = {pid for contender in running.values() for pid in contender.pids}
    others = [pid for pid in descendants(os.getpid()) if pid not in proxies and pid != os.getpid()]
    before = cpu_seconds(others)
    run = paced(one.port, PATH, rate=_PROBE_RATE, seconds=_PROBE_SECONDS, cpu=OTHER_CORE, warm_up_seconds=0)
    beside = (cpu_seconds(others) - before) / len(run.latencies) * 1e6
    return Pace(1e6 / micros, beside + run.cpu_share / _PROBE_RATE * 1e6)


def _runs(
    ground: Ground, rates: Mapping[str, float], running: Mapping[str, Contender], model: int, seconds: float
) -> dict[str, list[Paced]]:
    """Each in turns, without any proxy at our rate too."""
    ports = {name: one.port for name, one in running.items()} | {BARE: model}
    runs: dict[str, list[Paced]] = {name: [] for name in ports}
    for turn in range(1, ground.sizes.repetitions + 1):
        for name, port in ports.items():
            run = paced(port, PATH, rate=rates.get(name, rates[OURS]), seconds=seconds, cpu=OTHER_CORE)
            runs[name].append(run)
            ground.say(
                f"latency: round {turn}/{ground.sizes.repetitions}  {name:13} p50 {run.percentile(50):6.0f} µs, "
                f"p99 {run.percentile(99):6.0f} µs, p99.9 {run.percentile(99.9):6.0f} µs; "
                f"the generator was {percentile(run.lateness, 99):.0f} µs late at its p99"
            )
    return runs


def _spreads(runs: Mapping[str, list[Paced]], percent: float) -> dict[str, Spread]:
    return {name: Spread.of([run.percentile(percent) for run in found]) for name, found in runs.items()}
