"""What holds of every decision, whatever the load, the bounds and the history."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from autoscaler.policy.decider import Decisions, Reason, Signals, Standing, decide, fresh_standing, needed, taken
from autoscaler.policy.sizing import Sizing, SpecTable, table_of
from router.contract.specs import Kind
from tests.support.autoscaler_fleet import SECOND, START

LOADS = st.floats(0, 500, allow_nan=False)


@st.composite
def sizings(draw: st.DrawFn) -> Sizing:
    low = draw(st.integers(0, 20))
    high = max(1, draw(st.integers(low, 60)))
    fixed = draw(st.sampled_from([-1, draw(st.integers(low, high))]))
    return Sizing(
        low=low,
        high=high,
        fixed=fixed,
        initial=draw(st.integers(low, high)),
        capacity=draw(st.integers(1, 16)),
        target=draw(st.sampled_from([0.1, 0.5, 0.7, 1.0])),
        polling_seconds=draw(st.sampled_from([0.1, 1.0, 10.0])),
        idle_seconds=draw(st.sampled_from([0.5, 60.0])),
        backlog_seconds=1.0,
        drain_seconds=300,
        candidate=False,
        template="t",
        backend=None,
        kind=Kind.MANAGED,
    )


@st.composite
def rows(draw: st.DrawFn) -> tuple[Sizing, dict[str, float], dict[str, int]]:
    busy, queued, in_flight = draw(LOADS), draw(LOADS), draw(LOADS)
    signal = {
        "busy": busy,
        "queued": queued,
        "in_flight": in_flight,
        "peak": max(draw(LOADS), busy, in_flight) + queued,
        "need": min(busy + queued, draw(LOADS)),
        "age": draw(st.floats(0, 200)),
        "known": draw(st.booleans()),
    }
    standing = {
        "desired": draw(st.integers(-1, 70)),
        "ready": draw(st.integers(0, 5)),
        "pending": draw(st.integers(0, 5)),
        "turns": draw(st.integers(0, 10)),
        "grown": draw(st.integers(0, 400)),
        "trial": draw(st.booleans()),
        "failed": draw(st.booleans()),
        "rising": draw(st.booleans()),
    }
    return draw(sizings()), signal, standing


Row = tuple[Sizing, dict[str, float], dict[str, int]]


def arrays(fleet: list[Row]) -> tuple[SpecTable, Signals, Standing]:
    def column(name: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return np.array([row[1][name] for row in fleet], np.float64)

    def whole(name: str) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.array([row[2][name] for row in fleet], np.int64)

    signals = Signals(
        busy=column("busy"),
        queued=column("queued"),
        in_flight=column("in_flight"),
        peak=column("peak"),
        need=column("need"),
        activity_ns=START - (column("age") * SECOND).astype(np.int64),
        known=column("known").astype(np.bool_),
    )
    standing = replace(
        fresh_standing(len(fleet)),
        desired=whole("desired"),
        ready=whole("ready"),
        pending=whole("pending"),
        turns=whole("turns").astype(np.float64),
        turned_ns=np.full(len(fleet), START, np.int64),
        grown_ns=START - whole("grown") * SECOND,
        trial=whole("trial").astype(np.bool_),
        failed=whole("failed").astype(np.bool_),
        rising=whole("rising").astype(np.bool_),
    )
    return table_of([row[0] for row in fleet]), signals, standing


def decided(fleet: list[Row], *, shrink: bool = True) -> Decisions:
    table, signals, standing = arrays(fleet)
    return decide(signals, table, standing, START, shrink=shrink)


@given(st.lists(rows(), min_size=1, max_size=8))
def test_desired_is_within_the_bounds(fleet: list[Row]) -> None:
    made = decided(fleet)
    table = table_of([row[0] for row in fleet])
    assert np.all(made.desired >= table.low)
    assert np.all(made.desired <= table.high)


@given(st.lists(rows(), min_size=1, max_size=12))
def test_the_whole_fleet_at_once_decides_as_row_by_row(fleet: list[Row]) -> None:
    together = decided(fleet)
    for at, row in enumerate(fleet):
        alone = decided([row])
        assert together.desired[at] == alone.desired[0]
        assert together.reason[at] == alone.reason[0]
        for column in fields(Standing):
            assert getattr(together.standing, column.name)[at] == getattr(alone.standing, column.name)[0]


@given(rows(), LOADS, LOADS)
def test_more_demand_never_asks_for_less(row: Row, more_busy: float, more_queued: float) -> None:
    sizing, signal, standing = row
    heavier = {
        **signal,
        "busy": signal["busy"] + more_busy,
        "queued": signal["queued"] + more_queued,
        "need": signal["need"] + more_busy + more_queued,
        "peak": signal["peak"] + more_busy + more_queued,
    }
    assert decided([(sizing, heavier, standing)]).desired[0] >= decided([(sizing, signal, standing)]).desired[0]


@given(rows())
def test_a_scale_in_leaves_room_for_the_largest_load_of_the_window(row: Row) -> None:
    made = decided([row])
    if made.reason[0] == Reason.SCALE_IN:
        sizing, signal, _ = row
        assert made.desired[0] >= 1
        within = max(made.desired[0], 1) * sizing.capacity * sizing.target
        assert signal["peak"] <= within * (1 + 1e-6) or made.desired[0] == sizing.high


@given(rows())
def test_without_leave_to_shrink_only_the_bounds_shrink(row: Row) -> None:
    made = decided([row], shrink=False)
    before = row[2]["desired"]
    if before >= 0:
        kept = min(max(before, row[0].low), row[0].high)
        assert made.desired[0] >= kept or made.reason[0] == Reason.FIXED


@given(rows())
def test_unknown_demand_is_never_a_reason_to_shrink(row: Row) -> None:
    sizing, signal, standing = row
    made = decided([(sizing, {**signal, "known": False}, standing)])
    assert made.reason[0] not in (Reason.SCALE_IN, Reason.IDLE)


@given(rows())
def test_whatever_waits_at_zero_wakes(row: Row) -> None:
    sizing, signal, standing = row
    asleep = replace(sizing, low=0, fixed=min(sizing.fixed, sizing.high))
    made = decided([(asleep, {**signal, "queued": signal["queued"] + 1}, {**standing, "desired": 0})])
    assert made.desired[0] >= 1


@given(rows())
def test_deciding_again_at_the_same_moment_changes_nothing(row: Row) -> None:
    table, signals, standing = arrays([row])
    first = decide(signals, table, standing, START)
    second = decide(signals, table, first.standing, START)
    if first.reason[0] in (Reason.SCALE_OUT, Reason.SCALE_IN, Reason.IDLE, Reason.UNCHANGED):
        assert second.desired[0] == first.desired[0]


@given(LOADS, LOADS, LOADS, LOADS, st.floats(0.001, 100), sizings())
def test_need_grows_with_every_part_of_the_load(
    busy: float, queued: float, rate: float, more: float, service: float, sizing: Sizing
) -> None:
    table = table_of([sizing])

    def of(busy: float, queued: float, rate: float) -> float:
        arrays = [np.array([value]) for value in (busy, queued, rate, service)]
        return float(needed(arrays[0], arrays[1], arrays[2], arrays[3], table)[0])

    base = of(busy, queued, rate)
    assert busy <= base * (1 + 1e-9) + 1e-9
    assert base <= (busy + queued) * (1 + 1e-9) + 1e-9
    for heavier in (of(busy + more, queued, rate), of(busy, queued + more, rate), of(busy, queued, rate + more)):
        assert heavier >= base * (1 - 1e-9)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=10))
def test_rows_keep_their_history_when_the_fleet_is_rebuilt(order: list[int]) -> None:
    standing = replace(fresh_standing(10), desired=np.arange(10, dtype=np.int64))
    picked = taken(standing, np.array([*order, -1], np.int64))
    assert picked.desired.tolist() == [*order, -1]
