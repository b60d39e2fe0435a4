"""How a row is made of repeated measurements of ours and of peers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loadtests.gateway.ground import OURS
from loadtests.scoreboard import Row

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loadtests.measure import Spread


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
