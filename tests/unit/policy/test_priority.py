"""The order of those that wait, as one number."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from router.policy.priority import arrival_of, place, rank_of

WAITING = st.tuples(st.integers(0, 7), st.integers(1, (1 << 60) - 1))


@given(WAITING, WAITING)
def test_places_are_in_the_order_of_class_and_then_arrival(one: tuple[int, int], other: tuple[int, int]) -> None:
    assert (place(*one) < place(*other)) == (one < other)


@given(WAITING)
def test_a_place_tells_both_and_fits_a_cell(one: tuple[int, int]) -> None:
    found = place(*one)
    assert (rank_of(found), arrival_of(found)) == one
    assert 0 < found < 1 << 63


@given(st.integers(1, (1 << 60) - 1))
def test_without_classes_the_place_is_the_arrival(arrival: int) -> None:
    assert place(0, arrival) == arrival
