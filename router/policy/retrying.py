"""Whether a request whose replica failed it is sent again, and where.

Nothing is sent twice once the caller has seen a byte, or once more of the body has passed than is still held. A
request that was never sent may try as often as it likes, because ejection paces it; one that was sent may have been
worked on, so it is repeated once, and only as long as there is something in the deployment's budget: when everything
dies, repeating all of it would double the load on what is left.
"""

from __future__ import annotations

import enum
from typing import ClassVar


class Failure(enum.Enum):
    """How a replica failed a request."""

    REFUSED = enum.auto()
    """No connection came about, so nothing was sent."""
    STALE = enum.auto()
    """A kept-alive connection ended before any byte of an answer: most likely it had been closed already."""
    DIED = enum.auto()
    """A fresh connection ended before the answer's head was complete."""
    NONSENSE = enum.auto()
    """It answered, but not in HTTP."""


class Next(enum.Enum):
    """What to do about it."""

    SAME_AGAIN = enum.auto()
    """A fresh connection to the same replica."""
    ELSEWHERE = enum.auto()
    """Another replica, or the same one once it is back."""
    GIVE_UP = enum.auto()


class Budget:
    """What one deployment may spend on repeating requests, in requests: at first, and at most, its reserve; good answers
    fill it up again.
    """

    RESERVE: ClassVar[int] = 100
    """At least; never less than everything that may be in flight, so that the loss of a machine can be made good."""
    PER_GOOD_ANSWER: ClassVar[float] = 0.2

    __slots__ = ("_left", "_seen")

    def __init__(self) -> None:
        self._left = float("inf")
        self._seen = 0

    def spend(self, good: int, in_flight: int) -> bool:
        """Take one repetition if there is one. `good`: good answers since the start; `in_flight`: the most there may be."""
        self._left = min(max(self.RESERVE, in_flight), self._left + (good - self._seen) * self.PER_GOOD_ANSWER)
        self._seen = good
        if self._left < 1:
            return False
        self._left -= 1
        return True


def after(failure: Failure, *, replayable: bool, repeated: bool, refreshed: bool) -> Next:
    """`replayable`: the whole request is at hand; `repeated`, `refreshed`: it was sent elsewhere / freshly before."""
    if not replayable or failure is Failure.NONSENSE:
        return Next.GIVE_UP
    if failure is Failure.REFUSED:
        return Next.ELSEWHERE
    if failure is Failure.STALE and not refreshed:
        return Next.SAME_AGAIN
    return Next.GIVE_UP if repeated else Next.ELSEWHERE
