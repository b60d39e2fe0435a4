"""When a replica is left alone, and for how long.

*Unreachable*: it refuses connections, or they die. At once, short at first, doubling, bounded; the autoscaler is told by its
own probes, this only keeps the gateway from sending requests into a wall meanwhile.

*Erring*: it answers, but with errors while others answer well. It takes several in a row, at least as many good answers of
others since the first of them (else the model is broken or its input is, and leaving one alone helps nobody), and a share
that the rest can spare. After its time it is on trial: the first error puts it out again, for longer; the first good answer
clears it.
"""

from __future__ import annotations

FIRST_SECONDS = 0.1
LONGEST_SECONDS = 3.0
ERRORS_IN_A_ROW = 5
ERRING_SECONDS = 5.0
LONGEST_ERRING_SECONDS = 60.0
MOST_SHARE = 3
"""At most one in so many is left alone for its answers, and one of two."""


def back_off_seconds(failures: int) -> float:
    """Time out of rotation after `failures` (≥ 1) failures to connect in a row."""
    return min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** min(failures - 1, 16))


def erring_seconds(spells: int) -> float:
    """Time out of rotation for errors, the `spells`-th time (≥ 1) without a good answer in between."""
    return min(LONGEST_ERRING_SECONDS, ERRING_SECONDS * 2.0 ** min(spells - 1, 16))


def errs(in_a_row: int, others_good: int, *, on_trial: bool) -> bool:
    """Whether a replica with so many errors in a row is to blame, given the good answers of others since the first."""
    if on_trial:
        return others_good > 0
    return in_a_row >= ERRORS_IN_A_ROW and others_good >= ERRORS_IN_A_ROW


def can_spare(out: int, ready: int) -> bool:
    """Whether one more of `ready` replicas may be left alone for its answers, of which `out` are out for any reason."""
    return ready >= 2 and out < max(1, ready // MOST_SHARE)
