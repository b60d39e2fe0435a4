"""What holds a scale-in back: the window after growth, and a budget of turns.

Growth is never held back; only shrinking is. A turn is a scale-in after a growth: each one costs a token, tokens come
back with time, and without a token the deployment stays as large as it is. That bounds starts per hour whatever the
load does.
"""

from __future__ import annotations

import numpy as np

from autoscaler.policy.windows import WINDOW_BUCKETS, Bools, Floats, Ints

FLAP_BUDGET = 10.0
"""Turns a deployment may make in quick succession."""
FLAP_REFILL_SECONDS = 60.0
"""Time after which one more turn is allowed."""


def window_ns(polling_ns: Ints) -> Ints:
    """How long growth keeps: twenty polling intervals."""
    return polling_ns * WINDOW_BUCKETS


def may_shrink(now_ns: int, grown_ns: Ints, polling_ns: Ints) -> Bools:
    """Whether the last growth is a whole window ago."""
    return np.asarray(now_ns - grown_ns >= window_ns(polling_ns))


def turns_left(turns: Floats, turned_ns: Ints, now_ns: int) -> Floats:
    """Tokens at `now_ns`, given those left at the last turn."""
    seconds = np.maximum(now_ns - turned_ns, 0) / 1e9
    return np.asarray(np.minimum(FLAP_BUDGET, turns + seconds / FLAP_REFILL_SECONDS))
