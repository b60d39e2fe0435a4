"""Whether a request may enter: Azure's rule, and the bounds of what may wait.

More than 2 × max_concurrent_requests_per_instance × instances in flight or queued is refused with 429. While nothing is
ready the rule has no instances to count: then requests are held for the first replica, up to a bound of their own.
"""

from __future__ import annotations

import enum

COLD_START_GRACE_SECONDS = 1.0
"""Requests that arrive this soon after the first replica became ready belong to the burst that woke it."""
HELD_BODY_BYTES = 65536
"""Of one waiting request's body; beyond it the caller is no longer read."""
HELD_TOTAL_BYTES = 64 << 20
"""Of all waiting requests' bodies in one worker; beyond it requests with more than an empty body are refused."""


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


def decide(  # noqa: PLR0917 -- once per request: keywords would cost as much as the decision
    ready: bool, cold: bool, present: int, allowed: int, held: int, max_held: int
) -> Admission:
    """`present` of `allowed` are in flight or queued; `held` of `max_held` wait for a first replica.

    `cold` says that the first replica became ready less than the grace ago and that its burst still waits.
    """
    if ready and not (cold and held > 0):
        return Admission.ENTER if present < allowed else Admission.REFUSE
    return Admission.HOLD if held < max_held else Admission.REFUSE
