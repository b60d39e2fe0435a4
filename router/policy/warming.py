"""Slow start: what share of the requests a replica gets that has only just become ready.

Model servers are slow at first: kernels are chosen, code is compiled, caches are cold. So a replica's share grows with
its age, from a tenth to a whole one over the window, as in Envoy's slow start (aggression 1, least share 10 %). Shares
are relative to the oldest's: where all are new alike, nobody is slowed. Two are drawn by their shares and the one with
fewer requests in flight *for its share* takes the request; so without load a replica gets what its share says, and under
load it carries that much of what the others carry. A share is no limit: rather than wait, a request goes to a new replica.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

LEAST_SHARE = 0.1
STEPS = 100
"""Shares are worked out this often over a window, not for each request."""


def shares(ages_seconds: Sequence[float], window_seconds: float) -> list[float]:
    """Each replica's share, 0.1 to 1, from how long it has been ready; the oldest's is 1."""
    grown = [max(LEAST_SHARE, min(1.0, age / window_seconds)) for age in ages_seconds]
    most = max(grown, default=1.0)
    return [one / most for one in grown]


def totals(weights: Sequence[float]) -> list[float]:
    """Running sums, for `two_by_share`."""
    return list(accumulate(weights))


def two_by_share(sums: Sequence[float], first: float, second: float) -> tuple[int, int]:
    """Two different indices (of ≥ 2), each drawn in proportion to its share, from two chances in [0, 1)."""
    last = len(sums) - 1
    one = min(bisect_right(sums, first * sums[last]), last)
    begin = sums[one - 1] if one else 0.0
    own = sums[one] - begin
    at = second * (sums[last] - own)
    other = min(bisect_right(sums, at + own if at >= begin else at), last)
    if other == one:  # by rounding, at an edge
        other = one + 1 if one < last else one - 1
    return one, other


def lighter(load: int, share: float, other_load: int, other_share: float) -> bool:
    """Whether the first has at most as many requests in flight for its share as the other."""
    return load * other_share <= other_load * share
