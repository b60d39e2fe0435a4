"""The replicas of a deployment by zone, dealt as seen from the gateway's own one (`policy.zones`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from router.policy.zones import deal

if TYPE_CHECKING:
    from router.gateway.target import Target
    from router.gateway.warmth import Warmth


class Nearby:
    """Worked out once for each change of the replicas."""

    __slots__ = ("_groups", "_seen", "_zone")

    def __init__(self, zone: str) -> None:
        self._zone = zone
        self._seen: list[Target] = []
        self._groups: list[tuple[float, list[Target], Warmth]] = []
        """(running sum of shares, replicas of one zone, their warmth)."""

    def group(self, usable: list[Target], warmth: Warmth, chance: float) -> tuple[list[Target], Warmth] | None:
        """The replicas of the zone whose turn it is; None where zones say nothing.

        `usable` is made anew for each change; `chance` in [0, 1).
        """
        if usable is not self._seen:
            self._seen = usable
            self._sort(usable, warmth)
        for until, targets, own in self._groups:
            if chance < until:
                return targets, own
        return None

    def _sort(self, usable: list[Target], warmth: Warmth) -> None:
        self._groups = []
        until = 0.0
        for zone, share in deal(self._zone, [target.zone for target in usable]).items():
            until += share
            self._groups.append((until, [target for target in usable if target.zone == zone], warmth.of_some()))
