"""A token bucket that several share, each writing only its own numbers: how many it let in, and from when it counts.

    tokens(now) = burst + rate × (now - origin) - taken            taken: the sum over all; origin: the latest of all

The bucket is full, and overflows, when more than `burst` would be in it; then the origin moves on to the moment from which it is
just full. That is a running maximum of numbers that everybody computes alike, so two who do it at once do it once, and nobody
has to write what another wrote. It is GCRA (ITU-T I.371): its theoretical arrival time is origin + taken ÷ rate.

Whole numbers only. Two who look within the same microsecond may both take the last token: then one more is out until it has been
paid back. In any time t at most burst + rate × t + (sharers - 1) are let in.
"""

from __future__ import annotations

from typing import Final

_NS_MILLI: Final = 10**12
"""Nanoseconds in a thousand seconds: rates are held in thousandths per second."""


class Bucket:
    """Rate and burst; what has been taken is kept elsewhere."""

    __slots__ = ("burst", "millirate")

    def __init__(self, requests_per_second: float, burst: int) -> None:
        self.millirate = max(1, round(requests_per_second * 1000))
        self.burst = burst

    def origin(self, now: int, taken: int, known: int) -> int:
        """The latest origin, given the `known` one: times in nanoseconds of one clock."""
        full = now + -taken * _NS_MILLI // self.millirate  # rounded so that what has been taken is paid back in whole
        return max(known, full)

    def tokens(self, now: int, taken: int, origin: int) -> int:
        """Whole tokens there are; a request may pass when there is one."""
        return self.burst - taken + (now - origin) * self.millirate // _NS_MILLI

    def next_token(self, now: int, taken: int, origin: int) -> int:
        """Nanoseconds until there is a token."""
        return max(0, origin - (self.burst - taken - 1) * _NS_MILLI // self.millirate - now)

    def full(self, now: int, taken: int, origin: int) -> int:
        """Nanoseconds until the bucket is full."""
        return max(0, origin - -taken * _NS_MILLI // self.millirate - now)
