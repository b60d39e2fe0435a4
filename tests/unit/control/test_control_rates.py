"""Status maths: rates, gauges and quantiles, with time moved by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.contract.events import BUCKETS, DemandRow, bucket_of
from router.control.rates import Demand

S = 1_000_000_000
START = 1_700_000_000 * S


def histogram(seconds: float, count: int) -> tuple[int, ...]:
    return tuple(count if index == bucket_of(seconds) else 0 for index in range(BUCKETS))


def steady(rate: float, seconds: int, reporter: str = "w") -> Demand:
    """`rate` arrivals per second, one window of 100 ms after the other."""
    demand = Demand()
    for step in range(seconds * 10):
        begin = START + step * S // 10
        row = DemandRow("blue", arrivals=round(rate / 10), errors=1, in_flight=step % 7, latency=histogram(0.02, 2))
        demand.fold(reporter, begin, begin + S // 10, row)
    return demand


def test_a_steady_rate_is_seen_as_it_is() -> None:
    view = steady(200, 30).view(START + 30 * S)
    assert view.requests_per_second == pytest.approx(200, rel=0.02)
    assert view.errors_per_second == pytest.approx(10, rel=0.02)
    assert view.quantile_ms(0.5) == pytest.approx(20, rel=0.26)


def test_a_young_deployment_is_not_diluted_by_time_before_it() -> None:
    assert steady(200, 3).view(START + 3 * S).requests_per_second == pytest.approx(200, rel=0.02)


def test_silence_ends_rates_and_gauges() -> None:
    view = steady(200, 30).view(START + 41 * S)
    assert (view.requests_per_second, view.in_flight) == (0, 0)
    assert view.quantile_ms(0.99) is None


def test_gauges_add_up_over_reporters_and_the_newest_of_each_counts() -> None:
    demand = Demand()
    for reporter, in_flight in (("a", 9), ("a", 3), ("b", 4)):
        demand.fold(reporter, START, START + S, DemandRow("blue", in_flight=in_flight, queued=1))
    view = demand.view(START + S)
    assert (view.in_flight, view.queued) == (7, 2)


def test_memory_is_bounded_over_time_and_reporters() -> None:
    demand = Demand()
    for number in range(2000):
        at = START + number * S
        demand.fold(f"w{number}", at, at + S, DemandRow("blue", arrivals=1))
    assert len(demand._seconds) <= 22
    assert len(demand._gauges) <= 65
    assert demand.totals.arrivals == 2000


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 1000)), max_size=40), st.integers(0, 30))
def test_rates_are_never_negative_and_never_count_twice(windows: list[tuple[int, int]], until: int) -> None:
    demand = Demand()
    for at, arrivals in windows:
        demand.fold("w", START + at * S, START + at * S + S, DemandRow("blue", arrivals=arrivals))
    rate = demand.view(START + until * S + S).requests_per_second
    assert 0 <= rate <= sum(arrivals for _, arrivals in windows)
