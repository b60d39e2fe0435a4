"""How a lane picks a replica where its deployment asks for more than the less loaded of two.

A lane without such a wish has no chooser. Whatever is wished for, a request that could be sent does not wait: when those
that suit it are full, any replica with a place will do.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from router.gateway.affinity import Nearness
from router.gateway.records import unix_ns
from router.gateway.timers import NEVER
from router.policy.balancing import least_loaded
from router.policy.warming import STEPS, lighter, shares, totals, two_by_share

if TYPE_CHECKING:
    from router.contract.parts import DeploymentExtras
    from router.gateway.exchange import Exchange
    from router.gateway.lane import Lane
    from router.gateway.state import State
    from router.gateway.target import Target


def chooser_for(state: State, lane: Lane, extras: DeploymentExtras) -> Chooser | None:
    """What `extras` wish for; None where that is nothing."""
    if not extras.slow_start_seconds and extras.affinity is None:
        return None
    chooser = Chooser(state, lane, extras)
    chooser.renew(lane.chooser)
    return chooser


class Chooser:
    """The wishes of one deployment, for one lane."""

    __slots__ = ("_lane", "_nearness", "_state", "_warmth")

    def __init__(self, state: State, lane: Lane, extras: DeploymentExtras) -> None:
        self._state = state
        self._lane = lane
        self._warmth = Warmth(extras.slow_start_seconds)
        self._nearness = Nearness(lane, extras.affinity) if extras.affinity is not None else None

    def renew(self, before: Chooser | None) -> None:
        """Take the lane's present replicas, and what is known about them from the chooser `before`."""
        ready = self._lane.ready
        self._warmth.renew(ready, before._warmth if before is not None else None)
        if self._nearness is not None:
            self._nearness.renew(ready, before._nearness if before is not None else None)

    def lacks(self, exchange: Exchange) -> bool:
        """Whether it takes more of the request's body to know where it belongs."""
        return self._nearness is not None and self._nearness.lacks(exchange)

    def claim(self, exchange: Exchange) -> Target | None:
        """A place for `exchange`; None where every replica is full."""
        lane, nearness = self._lane, self._nearness
        usable = lane.usable
        if len(usable) < 2:
            return lane.claim()
        uneven = self._warmth.is_uneven(usable)
        key = nearness.key(exchange) if nearness is not None else b""
        if nearness is not None and key:
            target = nearness.claim(key, self._warmth.share_of if uneven else None)
            return target if target is not None else self._least_loaded(usable)
        target = self._by_share(usable) if uneven else None
        target = target if target is not None else lane.claim()
        if nearness is not None and target is not None:
            exchange.add_cookie(nearness.cookie(target, exchange.request_id))
        return target

    def _least_loaded(self, usable: list[Target]) -> Target | None:
        """Its load is never above the mean, so it is within any bound."""
        best = least_loaded([target.load() for target in usable], self._lane.concurrency)
        return usable[best] if best is not None and usable[best].claim(self._lane.concurrency) else None

    def _by_share(self, usable: list[Target]) -> Target | None:
        """A place at one of two drawn by their shares."""
        chance, warmth, concurrency = self._state.chance, self._warmth, self._lane.concurrency
        one, other = two_by_share(warmth.sums, chance(), chance())
        first, second = usable[one], usable[other]
        if not lighter(first.load(), warmth.shares[one], second.load(), warmth.shares[other]):
            first, second = second, first
        if first.claim(concurrency):
            return first
        return second if second.claim(concurrency) else None


class Warmth:
    """The shares of a lane's replicas as they grow (`policy.warming`)."""

    __slots__ = ("_known", "_seen", "_until", "_window_ns", "share_of", "shares", "sums", "uneven")

    def __init__(self, window_seconds: float) -> None:
        self._window_ns = int(window_seconds * 1e9)
        self._known: dict[str, tuple[int, int]] = {}
        """Replica → (when it became ready as the backend's clock has it, the same on ours)."""
        self._seen: list[Target] = []
        self._until = 0
        self.uneven = False
        self.shares: list[float] = []
        self.sums: list[float] = []
        self.share_of: dict[str, float] = {}
        """By replica; true where they are uneven."""

    def renew(self, ready: list[Target], before: Warmth | None) -> None:
        """These are ready now. One whose age nobody says, or says by a clock ahead of ours, is new when it is first seen."""
        now = time.monotonic_ns()
        known = before._known if before is not None else {}
        self._known = {}
        for target in ready:
            said, since = known.get(target.id, (-1, 0))
            if said != target.ready_ns:
                age = max(0, unix_ns(now) - target.ready_ns) if target.ready_ns else 0
                since = now - age
            self._known[target.id] = (target.ready_ns, since)
        self._until = 0

    def is_uneven(self, usable: list[Target]) -> bool:
        """Whether some of `usable`, which a lane makes anew for each change, get less than a whole share now."""
        if self._window_ns:
            now = time.monotonic_ns()
            if usable is not self._seen or now >= self._until:
                self._weigh(usable, now)
        return self.uneven

    def _weigh(self, usable: list[Target], now: int) -> None:
        ages = [(now - self._known[target.id][1]) / 1e9 for target in usable]
        self.shares = shares(ages, self._window_ns / 1e9)
        self.sums = totals(self.shares)
        self.uneven = min(self.shares) < 1
        self.share_of = {target.id: share for target, share in zip(usable, self.shares, strict=True)}
        self._seen = usable
        self._until = now + self._window_ns // STEPS if self.uneven else NEVER
