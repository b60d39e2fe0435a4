"""Which replica takes a request: the less loaded of two drawn at random, never one above its concurrency.

Two choices keep the longest queue near log log n (Mitzenmacher, IEEE TPDS 12, 2001), and read two counters instead of
all of them.
"""

from __future__ import annotations

from collections.abc import Sequence


def two_of(count: int, first: float, second: float) -> tuple[int, int]:
    """Two different indices below `count` (≥ 2), from two chances in [0, 1)."""
    one = int(first * count)
    other = int(second * (count - 1))
    return one, other + 1 if other >= one else other


def least_loaded(loads: Sequence[int], concurrency: int) -> int | None:
    """Index of the smallest load below `concurrency`; None when every replica is full."""
    best = min(range(len(loads)), key=loads.__getitem__, default=None)
    return best if best is not None and loads[best] < concurrency else None
