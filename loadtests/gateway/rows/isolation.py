"""Latency of an endpoint that is well beside a neighbour on the same worker that is not: p50 and p99 of short open-loop slices in turns.

Whoever shares a core waits now and then while the other is served: that is not what isolation is about. So all neighbours take the same
share of the worker's core, their rates for it found by a probe, and one of them is ordinary. Beside that one the others are judged; there
are two such cases, by which the noise is known. What the endpoint has alone is shown.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from loadtests.gateway.ground import OTHER_CORE, Ground
from loadtests.gateway.load.paced import Behind, Paced, paced
from loadtests.gateway.neighbourhood import KINDS, ORDINARY, Cost, Neighbourhood, beside, neighbourhood, neighbours
from loadtests.gateway.peers.work import PATH
from loadtests.gateway.rows import slices
from loadtests.gateway.rows.compared import unless_late
from loadtests.scoreboard import Row

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from loadtests.gateway.load.neighbours import Neighbour
    from loadtests.gateway.load.paced import Samples

ALONE, AGAIN = "alone", f"{ORDINARY}, again"
LIMIT = 1.2
MORE_MICROS = {50: 0.0, 99: 1_000.0}
"""Percentile → what it may always be more. One piece of a neighbour's work is done at a stretch, a head of 60 KB takes 0.2 to 0.4 ms,
and 40 % of the moments are within one; a p99 sees two of them behind one another. To callers of models a millisecond is little.
"""
SHARE, OTHERS_SHARE = 0.4, 0.6
"""Of the worker's core, and most of the other one, that a neighbour may take."""
FULL = 0.7
"""Of the worker's core: beyond it everybody waits for the processor."""
LEAST_LOAD = 0.5
"""Of what a neighbour was to put on: below, it has harmed nobody."""
PERCENTS = (50, 99)
_RATE = 2_000.0
_BESIDE = f"beside {ORDINARY} that takes as much of the core"


def rows(ground: Ground) -> list[Row]:
    """p50 and p99 beside the worst neighbour."""
    with neighbourhood(ground) as around:
        share, rates = affordable({name: around.cost(kind) for name, kind in KINDS.items()})
        told = ", ".join(f"{name} {rate:,.0f}/s" for name, rate in rates.items())
        ground.say(f"isolation: {share:.0%} of the worker's core for a neighbour: {told}")
        try:
            found, busy, loads = _measured(ground, around, rates)
        except Behind as error:
            return [
                Row(f"{_work(at)}; not available: {error}", "µs", None, {}, None, _goal(at), None) for at in PERCENTS
            ]
    ground.say("isolation: of the worker's core: " + ", ".join(f"{name} {part:.0%}" for name, part in busy.items()))
    ground.say(
        "isolation: of the load that was meant: " + ", ".join(f"{name} {part:.0%}" for name, part in loads.items())
    )
    latencies = slices.latencies(found)
    made = []
    for percent in PERCENTS:
        row = judged(percent, latencies)
        row = replace(
            row, work=f"{row.work}; {told}; worker's core {min(busy.values()):.0%} to {max(busy.values()):.0%} busy"
        )
        row = unless_full(unless_late(row, percent, found[ALONE]), max(busy.values()))
        made.append(unless_harmless(row, loads))
    return made


def affordable(costs: Mapping[str, Cost]) -> tuple[float, dict[str, float]]:
    """(share of the worker's core that every neighbour can take, their requests per second for it)."""
    share = min([SHARE, *(OTHERS_SHARE * cost.worker / cost.others for cost in costs.values())])
    return share, {name: share * 1e6 / cost.worker for name, cost in costs.items()}


def _measured(
    ground: Ground, around: Neighbourhood, rates: Mapping[str, float]
) -> tuple[dict[str, list[Paced]], dict[str, float], dict[str, float]]:
    """(slices of each case, what share of its core the worker took then, what share of its load each kind of neighbour put on)."""
    shares: dict[str, list[float]] = {}
    loads: dict[str, list[float]] = {name: [] for name in rates}

    def measure(name: str, kind: str, one: Neighbour | None) -> Paced:
        with contextlib.ExitStack() as stack:
            if one is not None:
                loads[kind].append(0.0)
                answered = stack.enter_context(beside(one, KINDS[kind], rates[kind]))
            share = around.busy()
            run = paced(
                around.port, PATH, rate=_RATE, seconds=slices.SECONDS, connections=32, cpu=OTHER_CORE, first=True
            )
            shares.setdefault(name, []).append(share())
        if one is not None:
            loads[kind][-1] = answered[0]
        return run

    with neighbours(around.port, rates) as running:
        measures = {name: partial(measure, name, name, one) for name, one in running.items()}
        measures |= {
            ALONE: partial(measure, ALONE, "", None),
            AGAIN: partial(measure, AGAIN, ORDINARY, running[ORDINARY]),
        }
        found = slices.in_turns(measures, ground.sizes.slices, lambda words: ground.say(f"isolation: {words}"))
    return (
        found,
        {name: _mean(parts) for name, parts in shares.items()},
        {name: _mean(parts) for name, parts in loads.items()},
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _goal(percent: int) -> str:
    more = MORE_MICROS[percent]
    return f"≤ {LIMIT:g} × {_BESIDE}" + (f", or {more / 1000:g} ms more" if more else "")


def _work(percent: float) -> str:
    return f"p{percent:g} of 1 KB POSTs at {_RATE:,.0f}/s beside a neighbour on the same worker"


def judged(percent: int, found: Mapping[str, Sequence[Samples]]) -> Row:
    """The row of the worst neighbour; `found` has the slices of each case, in the order of the rounds."""
    figures = {name: slices.figure(percent, one) for name, one in found.items()}
    bad = [name for name in KINDS if name != ORDINARY]
    noise = slices.noise_of_equals(percent, found[AGAIN], found[ORDINARY], among=len(bad))
    worst = max(bad, key=lambda name: figures[name])
    ratio = figures[worst] / figures[ORDINARY]
    others = {name: value for name, value in figures.items() if name != worst}
    met = slices.verdict(ratio, max(LIMIT, 1 + MORE_MICROS[percent] / figures[ORDINARY]), noise)
    return Row(
        f"{_work(percent)}: the worst, {worst}",
        "µs",
        figures[worst],
        others,
        ratio,
        f"{_goal(percent)}; noise {noise:.1%}",
        met,
    )


def unless_full(row: Row, busy: float) -> Row:
    """The row, without a verdict when the worker's core was full: `busy` of it was taken."""
    if row.met is None or busy <= FULL:
        return row
    return replace(row, met=None, goal=f"{row.goal}; not judged: the worker's core was {busy:.0%} busy")


def unless_harmless(row: Row, loads: Mapping[str, float]) -> Row:
    """The row, without a verdict when a neighbour put on too little of its load: the machine was too busy for it."""
    name = min(loads, key=lambda one: loads[one])
    if row.met is None or loads[name] >= LEAST_LOAD:
        return row
    return replace(row, met=None, goal=f"{row.goal}; not judged: {name} put on {loads[name]:.0%} of its load")
