"""Mirroring takes exactly its fraction, at every prefix, for ever."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.sampling import Sampler

FRACTIONS = st.one_of(st.floats(0, 1), st.sampled_from([1e-6, 1e-4, 0.001, 0.1, 1 / 3, 0.5, 0.9, 1.0]))
PHASES = st.floats(0, 1, exclude_max=True)


@settings(deadline=None)
@given(st.lists(FRACTIONS, max_size=5), PHASES, st.integers(1, 3000))
def test_each_target_is_within_one_request_of_its_fraction_at_every_prefix(
    fractions: list[float], phase: float, requests: int
) -> None:
    sampler = Sampler(fractions, phase)
    taken = [0] * len(fractions)
    for number in range(1, requests + 1):
        mask = sampler.sample()
        assert mask >> len(fractions) == 0
        for index, fraction in enumerate(fractions):
            taken[index] += mask >> index & 1
            assert abs(taken[index] - fraction * number) < 1 + 1e-9


@pytest.mark.parametrize("fraction", [1e-6, 1e-4, 0.3])
def test_a_fine_fraction_holds_over_a_million_requests(fraction: float) -> None:
    sampler = Sampler([fraction])
    taken = 0
    for number in range(1, 1_000_001):
        taken += sampler.sample()
        if number % 1000 == 0:
            assert abs(taken - fraction * number) < 1
    assert abs(taken - fraction * 1_000_000) < 1


@given(st.integers(2, 6), PHASES)
def test_equal_fractions_with_room_fall_on_different_requests(targets: int, phase: float) -> None:
    sampler = Sampler([0.05] * targets, phase)
    masks = [sampler.sample() for _ in range(2000)]
    assert max(mask.bit_count() for mask in masks) == 1
    assert set(Counter(masks).values()) - {100, 101, 99} == {Counter(masks)[0]}


def test_the_same_fractions_give_the_same_choice() -> None:
    one, two = Sampler([0.37, 0.01]), Sampler([0.37, 0.01])
    assert [one.sample() for _ in range(1000)] == [two.sample() for _ in range(1000)]


def test_none_and_all() -> None:
    none, everything, nobody = Sampler([0.0]), Sampler([1.0, 1.0]), Sampler([])
    for _ in range(100):
        assert (none.sample(), everything.sample(), nobody.sample()) == (0, 3, 0)


@pytest.mark.parametrize(
    ("fractions", "phase"), [([-0.1], 0.5), ([1.1], 0.5), ([float("nan")], 0.5), ([0.5], 1.0), ([0.5], -0.1)]
)
def test_nonsense_is_refused(fractions: list[float], phase: float) -> None:
    with pytest.raises(ValueError):
        Sampler(fractions, phase)
