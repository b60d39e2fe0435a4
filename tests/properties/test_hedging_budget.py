"""Hedging: how often, however slow everything is, and after which time."""

from __future__ import annotations

import bisect

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.contract.events import bucket_of, bucket_seconds
from router.policy.hedging import ENOUGH, SAVED, WINDOW_NS, Allowance, Typical

SECOND = 1_000_000_000


@given(st.floats(0.1, 100), st.lists(st.booleans(), max_size=400))
def test_no_more_than_the_share_of_the_answers_and_what_was_saved(percent: float, steps: list[bool]) -> None:
    allowance = Allowance(percent)
    answers = spent = 0
    for answered in steps:
        if answered:
            allowance.earn()
            answers += 1
        elif allowance.spend():
            spent += 1
        assert spent <= 1 + answers * percent / 100 + 1e-6


def test_what_is_saved_is_bounded() -> None:
    allowance = Allowance(100)
    for _ in range(1000):
        allowance.earn()
    assert sum(allowance.spend() for _ in range(1000)) == SAVED


@given(st.lists(st.floats(0.001, 50), min_size=ENOUGH, max_size=300), st.floats(50, 99.9))
def test_the_time_is_the_upper_edge_of_the_percentiles_bucket(times: list[float], percentile: float) -> None:
    typical = Typical(percentile)
    for number, seconds in enumerate(times[:ENOUGH]):
        typical.add(bucket_of(seconds), number)
    ordered = sorted(times[:ENOUGH])
    within = bisect.bisect_right(ordered, typical.delay_ns / 1e9 * 1.000001)
    assert within >= percentile / 100 * ENOUGH - 1e-6
    assert typical.delay_ns / 1e9 == pytest.approx(
        min(bucket_seconds(bucket_of(one)) for one in ordered[within - 1 : within])
    )


def test_before_there_is_enough_nothing_is_known_and_what_is_old_is_forgotten() -> None:
    typical = Typical(95)
    for number in range(ENOUGH - 1):
        typical.add(bucket_of(0.01), number)
        assert typical.delay_ns == 0
    typical.add(bucket_of(0.01), ENOUGH)
    assert typical.delay_ns == pytest.approx(bucket_seconds(bucket_of(0.01)) * 1e9, abs=1)
    for number in range(10 * ENOUGH):
        typical.add(bucket_of(1.0), 3 * WINDOW_NS + number * SECOND // 100)
    assert typical.delay_ns == pytest.approx(bucket_seconds(bucket_of(1.0)) * 1e9, abs=1)
