"""When a replica is left alone, and for how long.

*Unreachable*: it refuses connections, or they die. At once, short at first, doubling, bounded; the autoscaler is told by its
own probes, this only keeps the gateway from sending requests into a wall meanwhile.

*Erring*: it answers, but with errors while others answer well. It takes several in a row, at least as many good answers of
others since the first of them (else the model is broken or its input is, and leaving one alone helps nobody), and a share
that the rest can spare.

*Lagging*: it errs now and then, so seldom in a row, but more often than the others do together. Proxies that compare each
replica with mean and deviation of all need five of them and more (one of three can never be 1.9 deviations away); so two
proportions are compared instead, the replica's share of errors and that of all the others, by the lower end of
Newcombe's interval for their difference (Statistics in Medicine 17, 1998, method 10, from Wilson's score intervals). It is
right for few requests and for shares near 0 as well; its width allows for many looks.

Both: after its time it is on trial: the first error puts it out again, for longer; the first good answer
clears it.
"""

from __future__ import annotations

import math

FIRST_SECONDS = 0.1
LONGEST_SECONDS = 3.0
ERRORS_IN_A_ROW = 5
ERRING_SECONDS = 5.0
LONGEST_ERRING_SECONDS = 60.0
LAGGING_WINDOW_SECONDS = 30.0
LAGGING_REQUESTS = 20
LAGGING_DEVIATIONS = 3.5
"""One-sided, one look in 4,000 is wrong where all are equal."""
LAGGING_EXCESS = 0.05
"""Five requests of a hundred more must fail than elsewhere: for less, a third of the replicas is too high a price."""
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


def wilson(errors: int, requests: int, deviations: float) -> tuple[float, float]:
    """Score interval of a share of errors; `deviations` of the normal distribution to each side."""
    share, square = errors / requests, deviations * deviations
    middle = share + square / (2 * requests)
    half = deviations * math.sqrt(share * (1 - share) / requests + square / (4 * requests * requests))
    whole = 1 + square / requests
    return max(0.0, (middle - half) / whole), min(1.0, (middle + half) / whole)


def excess(errors: int, requests: int, others_errors: int, others_requests: int, deviations: float) -> float:
    """By how much the first share of errors is above the second one at least, with that confidence."""
    share, others = errors / requests, others_errors / others_requests
    low, _ = wilson(errors, requests, deviations)
    _, high = wilson(others_errors, others_requests, deviations)
    return share - others - math.hypot(share - low, high - others)


def lags(errors: int, requests: int, others_errors: int, others_requests: int) -> bool:
    """Whether a replica errs beyond doubt more often than all the others together, within one window."""
    if errors < ERRORS_IN_A_ROW or min(requests, others_requests) < LAGGING_REQUESTS:
        return False
    return excess(errors, requests, others_errors, others_requests, LAGGING_DEVIATIONS) > LAGGING_EXCESS


def can_spare(out: int, ready: int) -> bool:
    """Whether one more of `ready` replicas may be left alone for its answers, of which `out` are out for any reason."""
    return ready >= 2 and out < max(1, ready // MOST_SHARE)
