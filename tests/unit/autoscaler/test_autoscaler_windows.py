"""Buckets in a ring: shares, late sums, trailing means and the window's peak."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscaler.policy import windows

WIDTH = 1_000


def added(*items: tuple[int, float]) -> windows.Ring:
    ring = windows.empty_ring(1, 1, 1, WIDTH)
    for bucket, amount in items:
        zero = np.zeros(1, np.int64)
        windows.add(ring, zero, zero, np.array([bucket]), np.array([[amount]]))
    return ring


def at(moment: int) -> windows.Ints:
    return np.array([moment], np.int64)


@given(st.integers(0, 10**6), st.integers(0, 10**5))
def test_the_shares_of_a_span_add_up_to_one_unless_it_is_longer_than_the_ring(start: int, length: int) -> None:
    found = list(windows.shares(start, start + length, WIDTH))
    assert len(found) <= windows.SLOTS
    total = sum(share for _, share in found)
    assert total == pytest.approx(1) if length <= (windows.SLOTS - 1) * WIDTH else 0 < total <= 1 + 1e-9


def test_a_span_over_two_buckets_is_split_where_they_meet() -> None:
    assert list(windows.shares(900, 1100, WIDTH)) == [(0, 0.5), (1, 0.5)]
    assert list(windows.shares(900, 1000, WIDTH)) == [(0, 1.0)]


def test_the_trailing_sum_takes_the_inside_part_of_the_bucket_before() -> None:
    ring = added((5, 8.0), (6, 2.0))
    assert windows.trailing(ring, at(6250))[0, 0, 0] == pytest.approx(2 + 8 * 0.75)


def test_the_peak_forgets_what_is_older_than_the_window() -> None:
    ring = added((100, 7.0), (110, 3.0))
    last = 100 + windows.WINDOW_BUCKETS
    assert windows.window_peak(ring, 0, at(last * WIDTH))[0, 0] == 7
    assert windows.window_peak(ring, 0, at((last + 1) * WIDTH))[0, 0] == 3


@given(st.permutations([(1, 1.0), (3, 2.0), (30, 4.0), (31, 8.0), (53, 16.0)]))
def test_what_comes_late_lands_in_its_bucket_or_nowhere_in_any_order(items: list[tuple[int, float]]) -> None:
    ring = added(*items)
    assert windows.window_sums(ring, at(53 * WIDTH))[0, 0, 0] == 16.0
    assert windows.window_sums(added(*items[:0], (3, 2.0), (30, 4.0)), at(31 * WIDTH))[0, 0, 0] == 4.0


def test_growing_keeps_what_was() -> None:
    ring = windows.grown(added((5, 8.0)), 3, WIDTH)
    assert windows.window_sums(ring, np.full(3, 5 * WIDTH, np.int64))[0, :, 0].tolist() == [8, 0, 0]
