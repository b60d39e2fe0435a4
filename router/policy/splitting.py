"""Which deployment the next request goes to: exact, evenly spread, without chance.

Each deployment carries an integer balance in percent of a request: what it should have had minus what it has had. Per
request every balance grows by its weight and the chosen one pays 100, so the balances always add up to what they were.
The choice is Tijdeman's for the chairman assignment problem (R. Tijdeman, Discrete Mathematics 32, 1980, 323-330):
among those owed at least 1/(2k-2) of a request, the one that will be owed 1 - 1/(2k-2) first. With constant weights no
balance ever leaves (-100, 100): at every prefix each count is less than one request from exact.

Balances outlive a change of weights, so the sum of many changes stays close to the sum of what was asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

WHOLE: Final = 100
"""A request, in the unit of weights and balances."""


def choose(balances: Sequence[int], weights: Sequence[int]) -> int:
    """Index of the deployment that takes the next request.

    `weights` are positive and add up to `WHOLE`; `balances` are those before this request.
    """
    count = len(weights)
    if count == 1:
        return 0
    if count == 2:
        return of_two(balances[0] + weights[0], balances[1] + weights[1], weights[0], weights[1])
    scale = 2 * count - 2
    best, best_due, fallback, fallback_owed = -1, 0.0, 0, -(1 << 62)
    for index in range(count):
        weight = weights[index]
        owed = balances[index] + weight
        if owed > fallback_owed:
            fallback, fallback_owed = index, owed
        if owed * scale >= WHOLE:
            # Requests until it will be owed 1 - 1/(2k-2) of one.
            due = (WHOLE - WHOLE / scale - owed) / weight
            if best < 0 or due < best_due:
                best, best_due = index, due
    # After a change of weights nobody may be owed enough; then whoever is owed most.
    return best if best >= 0 else fallback


def of_two(first: int, second: int, weight: int, other: int) -> int:
    """The same rule for two, each owed its balance plus its weight (`weight`, `other`): 0 or 1."""
    if first * 2 >= WHOLE and second * 2 >= WHOLE:
        return 0 if (WHOLE - 2 * first) * other <= (WHOLE - 2 * second) * weight else 1
    return 0 if first >= second else 1


def charge(balances: list[int], weights: Sequence[int], chosen: int) -> None:
    """Give every deployment its weight and take a whole request from the chosen one, in place."""
    for index, weight in enumerate(weights):
        balances[index] += weight
    balances[chosen] -= WHOLE
