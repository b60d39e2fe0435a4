"""Whether a request may enter: Azure's rule, and the bounds of what may wait.

More than 2 × max_concurrent_requests_per_instance × instances in flight or queued is refused with 429. While nothing is
ready the rule has no instances to count: then requests are held for the first replica, up to a bound of their own. Such
a backlog is none of the limit's business afterwards either: it does not count, and who comes while it is worked off joins it.
"""

from __future__ import annotations

import enum
from typing import Final

JOINING_AT_LEAST_SECONDS = 10.0
"""Requests that arrive this soon after the first replica became ready join the backlog, as long as there is any."""
HELD_BODY_BYTES: Final = 65536
"""Of one waiting request's body; beyond it the caller is no longer read."""
HELD_TOTAL_BYTES: Final = 64 << 20
"""Of all waiting requests' bodies in one worker, over all endpoints."""


class Admission(enum.Enum):
    """What to do with a request at the door of its deployment."""

    ENTER = enum.auto()
    """Send it, or queue it where no replica is free."""
    HOLD = enum.auto()
    """Wait for a first replica."""
    REFUSE = enum.auto()
    """Too many are in already."""


def limit(concurrency: int, instances: int) -> int:
    """Most requests in flight plus queued on `instances` replicas."""
    return 2 * concurrency * instances


def may_hold(own: int, everybodys: int) -> bool:
    """Whether an endpoint whose waiting bodies have `own` of `everybodys` bytes may keep them.

    It may have as much as is free besides (Choudhury and Hahne's dynamic threshold for shared buffers): one endpoint alone gets
    half, two get a third each, and there is always room for the next one.
    """
    return own <= HELD_TOTAL_BYTES - everybodys


def joining_ends(waiting_since: int, ready_since: int) -> int:
    """Until when arrivals join a backlog that is not yet empty: as long again as the activation took.

    All in nanoseconds of one clock: since when the oldest waits, since when the first replica is ready.
    """
    return ready_since + max(int(JOINING_AT_LEAST_SECONDS * 1e9), ready_since - waiting_since)


def decide(  # noqa: PLR0917 -- once per request: keywords would cost as much as the decision
    ready: bool, joining: bool, present: int, allowed: int, held: int, max_held: int
) -> Admission:
    """`present` of `allowed` are in flight or queued; `held` of `max_held` wait, or waited, for a first replica.

    `joining` says that a backlog from zero is being worked off and that arrivals still join it.
    """
    if ready and not joining:
        return Admission.ENTER if present < allowed else Admission.REFUSE
    return Admission.HOLD if held < max_held else Admission.REFUSE
