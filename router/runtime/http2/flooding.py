"""How much of what costs its sender nothing one HTTP/2 connection may send.

A request that is reset at once, by its caller or because its caller broke it, has cost work and earned nothing; frames that
only keep house are work too. Both have an allowance that time fills up again, and honest use as well: a request that was
answered makes up for one that was not, a frame that we send for two that answer it.
"""

from __future__ import annotations

from router.runtime.http2.frames import Broken, Code

_RESETS = 200
"""At once."""
_RESETS_PER_SECOND = 20.0
_HOUSEKEEPING = 1000
_HOUSEKEEPING_PER_SECOND = 100.0
_PER_FRAME_SENT = 2.0
_MOST_EARNED = 20_000.0
"""Of what is earned and not yet spent: many frames may be on their way before their receiver answers the first."""


class Allowance:
    """Of one kind, for one connection. `now` is in monotonic nanoseconds."""

    __slots__ = ("_earned", "_left", "_most", "_per_second", "_since")

    def __init__(self, most: int, per_second: float, now: int) -> None:
        self._most = float(most)
        self._left = float(most)
        self._earned = 0.0
        self._per_second = per_second
        self._since = now

    def spend(self, now: int, cost: float = 1.0) -> bool:
        """Take `cost`; False: there was not enough left."""
        self._left = min(self._most, self._left + (now - self._since) / 1e9 * self._per_second)
        self._since = now
        if self._earned >= cost:
            self._earned -= cost
            return True
        self._left -= cost
        return self._left >= 0

    def earn(self, amount: float = 1.0) -> None:
        """What the connection did besides was worth this much."""
        self._earned = min(_MOST_EARNED, self._earned + amount)


class Patience:
    """With one connection: both allowances."""

    __slots__ = ("_house", "_resets", "frames_sent")

    def __init__(self, now: int) -> None:
        self.frames_sent = 0
        """Since the last look at what it may cost."""
        self._house = Allowance(_HOUSEKEEPING, _HOUSEKEEPING_PER_SECOND, now)
        self._resets = Allowance(_RESETS, _RESETS_PER_SECOND, now)

    def housekeeping(self, now: int) -> None:
        """It has sent a frame that asks for nothing. Raises `Broken` when that was too often."""
        self._house.earn(_PER_FRAME_SENT * self.frames_sent)
        self.frames_sent = 0
        if not self._house.spend(now):
            raise Broken(Code.ENHANCE_YOUR_CALM, "too many frames that ask for nothing")

    def strike(self, now: int) -> None:
        """A stream was ended early by it, or by its fault. Raises `Broken` when that was too often."""
        if not self._resets.spend(now):
            raise Broken(Code.ENHANCE_YOUR_CALM, "too many requests that are taken back or malformed")

    def good(self) -> None:
        """A stream was answered."""
        self._resets.earn()
