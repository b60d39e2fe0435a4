"""Who sticks to which deployment: callers are dealt into hundredths, hundredths to deployments, so that the ratio is the weights'.

A caller's hundredth is a hash of what tells it apart, so it is the same in every worker and after every restart. Which
deployment has a hundredth follows from the weights and from who had it before: a change of weights moves as many as the
weights differ by, no more, and what a deployment got last it gives back first, so that a ramp up and down again ends
where it began. Hashing a caller straight to a weighted deployment (rendezvous) moves up to twice as many where more than
two share the traffic, and nothing without memory does better (Bavarian and others on correlated sampling, Theory of
Computing 16, 2020).
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b

PARTS = 100
"""Hundredths: weights are whole percents."""

Cohorts = Mapping[str, tuple[int, ...]]
"""Deployment → its hundredths, in the order in which it got them."""


def part_of(endpoint: str, caller: bytes) -> int:
    """The hundredth of `caller` (what tells it apart, as bytes) at `endpoint`; those of two endpoints are independent."""
    digest = blake2b(caller, digest_size=8, key=endpoint.encode()[:64]).digest()
    return int.from_bytes(digest) * PARTS >> 64


def deal(weights: Mapping[str, int], before: Cohorts) -> dict[str, tuple[int, ...]]:
    """The cohorts for `weights` (whole percents that add up to 100, or to 0: then there are none).

    Each deployment has as many hundredths as its weight; of those it had `before` it keeps as many as it may.
    """
    if not any(weights.values()):
        return {}
    kept = {name: list(before.get(name, ()))[:weight] for name, weight in weights.items() if weight > 0}
    taken = {part for parts in kept.values() for part in parts}
    # What was given up last in the order of names comes first; a hundredth that nobody had comes after those.
    given = [part for name in sorted(before) for part in reversed(before[name]) if part not in taken]
    given += [part for part in range(PARTS) if part not in taken and part not in given]
    free = iter(given)
    for name in sorted(kept):
        parts = kept[name]
        parts += [next(free) for _ in range(weights[name] - len(parts))]
    return {name: tuple(parts) for name, parts in sorted(kept.items())}
