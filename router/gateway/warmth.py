"""The shares that the replicas of a deployment get while they are new (`policy.warming`)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from router.gateway.records import unix_ns
from router.gateway.timers import NEVER
from router.policy.warming import STEPS, shares, totals

if TYPE_CHECKING:
    from router.gateway.target import Target


class Warmth:
    """Worked out some times per window, not for each request."""

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

    def of_some(self) -> Warmth:
        """For shares among some of these replicas; true until the next `renew`."""
        some = Warmth(0)
        some._window_ns, some._known = self._window_ns, self._known
        return some

    def is_uneven(self, usable: list[Target]) -> bool:
        """Whether some of `usable`, which is made anew for each change, get less than a whole share now."""
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
