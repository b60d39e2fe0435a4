"""Whether a request whose replica failed it is sent again, and where.

Nothing is sent twice once the caller has seen a byte, or once more of the body has passed than is still held. A
request that was never sent may try as often as it likes, because ejection paces it; one that was sent may have been
worked on, so it is repeated once.
"""

from __future__ import annotations

import enum


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


def after(failure: Failure, *, replayable: bool, repeated: bool, refreshed: bool) -> Next:
    """`replayable`: the whole request is at hand; `repeated`, `refreshed`: it was sent elsewhere / freshly before."""
    if not replayable or failure is Failure.NONSENSE:
        return Next.GIVE_UP
    if failure is Failure.REFUSED:
        return Next.ELSEWHERE
    if failure is Failure.STALE and not refreshed:
        return Next.SAME_AGAIN
    return Next.GIVE_UP if repeated else Next.ELSEWHERE
