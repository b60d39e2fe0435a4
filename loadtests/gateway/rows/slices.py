"""Latencies of several cases beside one another: short open-loop slices in turns, in another order each round; and what of a ratio is noise.

What changes slowly about a machine touches all cases alike, and what comes and goes is spread over them. The noise is found by drawing
the rounds anew (bootstrap): of two cases that are equal, what they seem to differ by; of two that are not, how far their ratio moves.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import numpy as np

from loadtests.gateway.load.paced import percentile

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from loadtests.gateway.load.paced import Paced, Samples

SECONDS = 0.5
"""Of a slice."""
RESOLUTION = 0.1
"""A measurement whose noise is larger tells nothing about a goal that is just met."""
HOPELESS = 0.5
"""Beyond such a noise there is no verdict at all: the few rounds that make it so do not tell how large it is either."""
_RESAMPLES = 1_000
_CONFIDENCE = 95.0


def in_turns(
    measures: Mapping[str, Callable[[], Paced]], rounds: int, say: Callable[[str], None]
) -> dict[str, list[Paced]]:
    """Each of `measures` once a round; the first round on top only warms up. The slices of each case, in the order of the rounds."""
    found: dict[str, list[Paced]] = {name: [] for name in measures}
    order = random.Random(1)
    for turn in range(rounds + 1):
        for name in order.sample(list(found), len(found)):
            run = measures[name]()
            if turn:
                found[name].append(run)
        say(f"round {turn}/{rounds}")
    return found


def latencies(found: Mapping[str, Sequence[Paced]]) -> dict[str, list[Samples]]:
    """Of the slices, what is judged."""
    return {name: [run.latencies for run in runs] for name, runs in found.items()}


def figure(percent: float, slices: Sequence[Samples]) -> float:
    """A percentile over all slices of a case."""
    return percentile(np.concatenate(slices), percent)


def noise_of_equals(percent: float, one: Sequence[Samples], other: Sequence[Samples], *, among: int = 1) -> float:
    """What two equal cases may differ by: the larger is the smaller's (1 + noise)-fold, or more, in no more than 5 % of drawn rounds.

    `among`: of how many cases the worst is looked for, which by chance alone is worse than any one of them (Bonferroni).
    """
    return _noise(percent, one, other, 1.0, among)


def noise_of_ratio(percent: float, one: Sequence[Samples], other: Sequence[Samples]) -> float:
    """How far the ratio one ÷ other may be from what was found, as a share of it."""
    return _noise(percent, one, other, figure(percent, one) / figure(percent, other), 1)


def _noise(percent: float, one: Sequence[Samples], other: Sequence[Samples], expected: float, among: int) -> float:
    chance = np.random.default_rng(1)
    differences = []
    for _ in range(_RESAMPLES):
        rounds = chance.integers(len(one), size=len(one))
        ratio = figure(percent, [one[at] for at in rounds]) / figure(percent, [other[at] for at in rounds])
        differences.append(max(ratio / expected, expected / ratio) - 1)
    return float(np.percentile(differences, 100 - (100 - _CONFIDENCE) / among))


def verdict(ratio: float, limit: float, noise: float) -> bool | None:
    """Whether `ratio` keeps to `limit`. Beyond doubt where it does, or does not, by more than the noise; what keeps to it by less is
    good enough where the noise is small. Anything else is no verdict.
    """
    if noise > HOPELESS:
        return None
    if ratio > limit * (1 + noise):
        return False
    if ratio * (1 + noise) <= limit or (ratio <= limit and noise <= RESOLUTION):
        return True
    return None
