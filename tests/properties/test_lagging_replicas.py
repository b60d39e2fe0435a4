"""Who errs more often than the others: found with few replicas and few requests, and hardly ever without cause."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.policy.ejection import LAGGING_DEVIATIONS, LAGGING_REQUESTS, excess, lags, wilson


@pytest.mark.parametrize(
    ("errors", "requests", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilsons_interval_is_that_of_the_literature(errors: int, requests: int, low: float, high: float) -> None:
    """Newcombe, Statistics in Medicine 17 (1998), 857-872, table I."""
    assert wilson(errors, requests, 1.959964) == pytest.approx((low, high), abs=6e-5)


@pytest.mark.parametrize(
    ("one", "other", "low"),
    [
        ((56, 70), (48, 80), 0.0524),
        ((9, 10), (3, 10), 0.1705),
        ((10, 10), (0, 20), 0.6791),
        ((5, 56), (0, 29), -0.0381),
    ],
)
def test_the_lower_end_of_the_difference_is_that_of_the_literature(
    one: tuple[int, int], other: tuple[int, int], low: float
) -> None:
    """Newcombe, Statistics in Medicine 17 (1998), 873-890, table II, method 10."""
    assert excess(*one, *other, 1.959964) == pytest.approx(low, abs=6e-5)


COUNTS = st.tuples(st.integers(0, 500), st.integers(1, 500)).map(lambda pair: (min(pair), max(pair)))


@given(COUNTS, COUNTS)
def test_the_end_is_below_the_difference_and_one_more_error_raises_it(
    one: tuple[int, int], other: tuple[int, int]
) -> None:
    low = excess(*one, *other, LAGGING_DEVIATIONS)
    assert -1 - 1e-9 <= low <= one[0] / one[1] - other[0] / other[1] + 1e-9
    if one[0] < one[1]:
        assert excess(one[0] + 1, one[1], *other, LAGGING_DEVIATIONS) > low - 1e-9


@given(COUNTS, COUNTS)
def test_who_errs_no_more_than_the_others_never_lags(one: tuple[int, int], other: tuple[int, int]) -> None:
    if one[0] / one[1] <= other[0] / other[1] + 0.05 or min(one[1], other[1]) < LAGGING_REQUESTS:
        assert not lags(*one, *other)


@pytest.mark.parametrize("replicas", [2, 3, 4, 8])
@pytest.mark.parametrize("share", [0.02, 0.2, 0.5])
def test_where_all_are_equal_hardly_anybody_is_taken_for_lagging(replicas: int, share: float) -> None:
    """Over whole windows, looked at after each error."""
    dice, wrong = random.Random(7), 0
    for _ in range(60):
        counts = [[0, 0] for _ in range(replicas)]
        found = False
        for _ in range(100 * replicas):
            mine = counts[dice.randrange(replicas)]
            mine[1] += 1
            if dice.random() < share:
                mine[0] += 1
                errors = sum(one[0] for one in counts) - mine[0]
                found |= lags(mine[0], mine[1], errors, sum(one[1] for one in counts) - mine[1])
        wrong += found
    assert wrong == 0


@pytest.mark.parametrize(
    ("share", "others", "within"), [(0.5, 0.0, 30), (0.5, 0.05, 60), (0.3, 0.01, 100), (0.2, 0.0, 150)]
)
@pytest.mark.parametrize("replicas", [2, 3])
def test_who_lags_is_found_within_few_requests(share: float, others: float, within: int, replicas: int) -> None:
    mine = round(share * within)
    rest = within * (replicas - 1)
    assert lags(mine, within, round(others * rest), rest)
