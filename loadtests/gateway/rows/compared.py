"""How a row is made of repeated measurements of ours and of peers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from loadtests.gateway.ground import OURS
from loadtests.gateway.load.paced import percentile
from loadtests.scoreboard import Row

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from loadtests.gateway.load.paced import Paced
    from loadtests.measure import Spread

_LATE_SHARE = 0.5
"""Of a latency that is judged: most that requests may be late by themselves, at the same percentile, for it to be the proxies'."""


def at_most(
    work: str, unit: str, spreads: Mapping[str, Spread], peer: str, limit: float | None, *, alone: bool = False
) -> list[Row]:
    """A row whose goal is that our median is at most `limit` times that of `peer`; None watches it without a goal.

    No row where the peer did not take part. `alone`: show no other peer beside it.
    """
    if peer not in spreads:
        return []
    shown = [peer] if alone else [name for name in spreads if name != OURS]
    ratio = spreads[OURS].median / spreads[peer].median
    goal = f"≤ {limit:g} × {peer}" if limit is not None else f"watched: ÷ {peer}"
    met = None if limit is None else ratio <= limit
    return [_row(work, unit, spreads, shown, ratio=ratio, goal=goal, met=met)]


def at_least(work: str, unit: str, spreads: Mapping[str, Spread], peer: str, limit: float) -> list[Row]:
    """The same for figures of which more is better."""
    if peer not in spreads:
        return []
    shown = [name for name in spreads if name != OURS]
    ratio = spreads[OURS].median / spreads[peer].median
    return [_row(work, unit, spreads, shown, ratio=ratio, goal=f"≥ {limit:g} × {peer}", met=ratio >= limit)]


def lateness(percent: float, runs: Sequence[Paced]) -> float:
    """A percentile of what requests were late when they left, over all slices, µs."""
    return percentile(np.concatenate([run.lateness for run in runs]), percent)


def unless_late(row: Row, percent: float, bare: Sequence[Paced], *, peer: str | None = None) -> Row:
    """The row, without a verdict when the machine was too busy for one: requests left late although nothing was in their way.

    `peer`: the only one that ours is judged beside; None: all are. Latencies count from when requests were due, so what they were late is in all of them and makes unequal ones alike.
    """
    if row.met is None or row.ours is None:
        return row
    late = lateness(percent, bare)
    beside = row.peers.values() if peer is None else [row.peers[peer]]
    if late <= _LATE_SHARE * min(row.ours, *beside):
        return row
    reason = (
        f"not judged: the machine is busy, with nothing in their way requests left {late:,.0f} µs late at p{percent:g}"
    )
    return replace(row, met=None, goal=f"{row.goal}; {reason}")


def _row(
    work: str,
    unit: str,
    spreads: Mapping[str, Spread],
    shown: list[str],
    *,
    ratio: float,
    goal: str,
    met: bool | None,
) -> Row:
    ranges = {name: (spreads[name].values[0], spreads[name].values[-1]) for name in [OURS, *shown]}
    peers = {name: spreads[name].median for name in shown}
    return Row(work, unit, spreads[OURS].median, peers, ratio, goal, met, ranges)
