"""Demand by two ways counts once, whichever comes first; a gauge never goes back to what it was."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from router.contract import codec
from router.contract.events import DEMAND, DemandReport, DemandRow
from router.contract.handover import Handed
from router.control import counting
from router.control.counting import CountedOnce
from router.control.fleet import Fleet
from router.runtime.log.base import Message

SECOND = 10**9
NOW = 1_700_000_000 * SECOND


def said(number: int, in_flight: int = 0) -> bytes:
    end = NOW + number * SECOND // 10
    row = DemandRow("blue", arrivals=1, completions=1, in_flight=in_flight)
    return codec.encode_demand(DemandReport("shop", end - SECOND // 10, end, 1, 1, rows=(row,)))


def logged(fleet: Fleet, number: int, in_flight: int = 0) -> None:
    fleet.take([Message(DEMAND, 0, number, "shop", said(number, in_flight), "w", number, 0)])


def handed(fleet: Fleet, number: int, in_flight: int = 0) -> None:
    fleet.take_handed([Handed("w", number, 0, "shop", said(number, in_flight))])


def arrivals(fleet: Fleet) -> int:
    return fleet.live["shop", "blue"].totals.arrivals


def test_what_came_directly_is_not_counted_again_when_the_log_brings_it() -> None:
    fleet = Fleet(lambda: None)
    logged(fleet, 0)
    for number in (1, 2, 4):
        handed(fleet, number)
        handed(fleet, number)
    for number in range(1, 6):
        logged(fleet, number)
    handed(fleet, 5)
    assert arrivals(fleet) == 6
    assert fleet.demand_once.counted == {"log": 3, "direct": 3}


def test_the_log_catching_up_does_not_bring_old_gauges_back() -> None:
    fleet = Fleet(lambda: None)
    handed(fleet, 50, in_flight=7)
    logged(fleet, 3, in_flight=99)
    view = fleet.demand(("shop", "blue"), NOW + 5 * SECOND)
    assert view is not None
    assert (view.in_flight, arrivals(fleet)) == (7, 2)


def test_writers_and_endpoints_are_apart_and_what_makes_no_sense_is_skipped() -> None:
    fleet = Fleet(lambda: None)
    handed(fleet, 0)
    fleet.take_handed([Handed("other", 0, 0, "shop", said(0)), Handed("w", 1, 0, "bank", b"nonsense")])
    assert (arrivals(fleet), fleet.skipped) == (2, 1)


def test_memory_is_bounded() -> None:
    once = CountedOnce()
    for number in range(counting.MOST + 10):
        assert once.direct("shop", f"w{number}", 0)
    assert len(once._ids) == counting.MOST
    assert not once.direct("shop", f"w{counting.MOST}", 0)


@given(st.lists(st.integers(0, 40), unique=True), st.lists(st.integers(0, 40)), st.randoms(use_true_random=False))
def test_in_any_order_of_both_ways_each_counts_once(by_log: list[int], directly: list[int], chance: Random) -> None:
    once, counted, log = CountedOnce(), list[int](), sorted(by_log)
    direct = list(directly)
    while log or direct:
        if log and (not direct or chance.random() < 0.5):
            number = log.pop(0)
            if once.logged("e", "w", number):
                counted.append(number)
        else:
            number = direct.pop(0)
            if once.direct("e", "w", number):
                counted.append(number)
    assert len(counted) == len(set(counted))
    assert set(by_log) <= set(counted) <= {*by_log, *directly}
