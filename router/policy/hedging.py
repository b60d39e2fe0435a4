"""When a request that is slow to be answered is sent to a second replica too, and how often that may be.

After a time in which nearly all requests are answered, so that few are sent twice (Dean and Barroso, The tail at scale,
CACM 56, 2013): a fixed one, or a percentile of the times to the answer's head that the deployment had lately. A budget
bounds what that costs when everything is slow: each answer earns a share of a request, and at most ten are saved up.
"""

from __future__ import annotations

from router.contract.events import BUCKETS, quantile_seconds

SAVED = 10.0
ENOUGH = 100
"""Answers before a percentile says anything."""
WINDOW_NS = 30_000_000_000
_EVERY = 32
"""Answers between two looks at the percentile."""


class Allowance:
    """How many requests may be sent twice, for one deployment in one worker."""

    __slots__ = ("_each", "_left")

    def __init__(self, percent: float) -> None:
        self._each = percent / 100
        self._left = 1.0

    def earn(self) -> None:
        """A request has been answered."""
        self._left = min(SAVED, self._left + self._each)

    def spend(self) -> bool:
        """Whether one more may be sent twice; then it is."""
        if self._left < 1 - 1e-9:
            return False
        self._left -= 1
        return True


class Typical:
    """A percentile of the times to the answer's head over the last one to two windows, upper edge of its bucket."""

    __slots__ = ("_before", "_counts", "_ends_ns", "_percentile", "_until_look", "delay_ns")

    def __init__(self, percentile: float) -> None:
        self._percentile = percentile
        self._before = [0] * BUCKETS
        self._counts = [0] * BUCKETS
        self._ends_ns = 0
        self._until_look = ENOUGH
        self.delay_ns = 0
        """0: not known yet."""

    def add(self, bucket: int, now_ns: int) -> None:
        """One answer, by `events.bucket_of` its time."""
        if now_ns >= self._ends_ns:
            stale = now_ns >= self._ends_ns + WINDOW_NS
            self._before = [0] * BUCKETS if stale else self._counts
            self._counts = [0] * BUCKETS
            self._ends_ns = now_ns + WINDOW_NS
        self._counts[bucket] += 1
        self._until_look -= 1
        if self._until_look <= 0:
            self._until_look = _EVERY
            counts = [one + other for one, other in zip(self._before, self._counts, strict=True)]
            enough = sum(counts) >= ENOUGH
            self.delay_ns = int(quantile_seconds(counts, self._percentile / 100) * 1e9) if enough else 0
