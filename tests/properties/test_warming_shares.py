"""Slow start: shares grow with age, nobody is slowed where all are new, and two are drawn by their shares."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from router.policy.warming import LEAST_SHARE, lighter, shares, totals, two_by_share

AGES = st.lists(st.floats(0, 1000), min_size=1, max_size=30)
WINDOWS = st.floats(0.1, 3600)
CHANCES = st.floats(0, 1, exclude_max=True)
WEIGHTS = st.lists(st.floats(LEAST_SHARE, 1), min_size=2, max_size=30)


@given(AGES, WINDOWS)
def test_the_oldest_has_a_whole_share_and_the_newest_a_tenth_of_one(ages: list[float], window: float) -> None:
    found = shares(ages, window)
    assert max(found) == 1
    assert min(found) >= LEAST_SHARE
    by_age = sorted(zip(ages, found, strict=True))
    assert all(one[1] <= other[1] for one, other in itertools.pairwise(by_age))


@given(st.integers(1, 30), st.floats(0, 1000), WINDOWS)
def test_where_all_are_new_alike_nobody_is_slowed(count: int, age: float, window: float) -> None:
    assert shares([age] * count, window) == [1.0] * count


@given(AGES, WINDOWS)
def test_after_the_window_all_have_the_same(ages: list[float], window: float) -> None:
    assert shares([window + age for age in ages], window) == [1.0] * len(ages)


@given(WEIGHTS, CHANCES, CHANCES)
def test_two_different_ones_are_drawn(weights: list[float], first: float, second: float) -> None:
    one, other = two_by_share(totals(weights), first, second)
    assert one != other
    assert 0 <= one < len(weights)
    assert 0 <= other < len(weights)


@given(WEIGHTS)
def test_each_is_drawn_first_and_second_as_often_as_its_share_says(weights: list[float]) -> None:
    steps, sums = 200, totals(weights)
    evenly = [(step + 0.5) / steps for step in range(steps)]
    firsts = [two_by_share(sums, chance, 0.5)[0] for chance in evenly]
    for index, weight in enumerate(weights):
        assert abs(firsts.count(index) / steps - weight / sums[-1]) <= 1 / steps
    one = firsts[0]
    seconds = [two_by_share(sums, 0.5 / steps, chance)[1] for chance in evenly]
    for index, weight in enumerate(weights):
        expected = 0 if index == one else weight / (sums[-1] - weights[one])
        assert abs(seconds.count(index) / steps - expected) <= 2 / steps


@given(st.integers(0, 1000), st.integers(0, 1000))
def test_with_whole_shares_it_is_the_less_loaded_of_two(load: int, other: int) -> None:
    assert lighter(load, 1.0, other, 1.0) == (load <= other)


def test_under_load_a_new_one_carries_its_share_of_what_the_others_carry() -> None:
    assert lighter(1, 0.1, 10, 1.0)
    assert not lighter(1, 0.1, 9, 1.0)
    assert lighter(0, 0.1, 0, 1.0)
