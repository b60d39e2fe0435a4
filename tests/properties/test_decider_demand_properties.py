"""What holds of the fold: order among reporters, repetitions and batches do not matter; planes do not mix."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from autoscaler.policy.demand import LIVE, SHADOW, DemandState, Heard, Load, fold, load_at, row_of
from router.contract.events import DemandRow
from tests.support.autoscaler_fleet import ENDPOINT, SECOND, START, report

EXPIRE = 10 * SECOND
NOW = START + 5 * SECOND


@st.composite
def speeches(draw: st.DrawFn) -> list[list[Heard]]:
    """What some reporters say, each in its own order."""
    all_of_them = []
    for number in range(draw(st.integers(1, 3))):
        shadow = draw(st.booleans()) and number > 0
        moments = sorted(draw(st.sets(st.integers(0, 50), min_size=1, max_size=6)))
        said = []
        for sequence, moment in enumerate(moments):
            rows = [
                DemandRow(
                    name,
                    arrivals=draw(st.integers(0, 9)),
                    completions=draw(st.integers(0, 9)),
                    in_flight=draw(st.integers(0, 9)),
                    queued=draw(st.integers(0, 9)),
                    busy_seconds=draw(st.floats(0, 1)),
                )
                for name in draw(st.sets(st.sampled_from(["blue", "green"])))
            ]
            body = report(*rows, end_ns=START + moment * SECOND // 10, shadow=shadow)
            said.append(Heard(f"reporter-{number}", sequence, body))
        all_of_them.append(said)
    return all_of_them


def figures(state: DemandState) -> dict[str, Any]:
    """The load of both deployments, by name."""
    rows = [row_of(state, (ENDPOINT, name)) for name in ("blue", "green")]
    load = load_at(state, NOW, EXPIRE)
    return {name: getattr(load, name)[rows] for name in Load.__slots__}


def fresh() -> DemandState:
    state = DemandState()
    for name in ("blue", "green"):
        row_of(state, (ENDPOINT, name))
    return state


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    for name, values in one.items():
        np.testing.assert_allclose(values, other[name], rtol=1e-9, atol=1e-12, err_msg=name)


@given(speeches(), st.randoms(use_true_random=False))
def test_the_order_among_reporters_does_not_matter(said: list[list[Heard]], chance: Any) -> None:
    straight = fold(fresh(), [one for each in said for one in each])
    queues = [list(each) for each in said]
    mixed = fresh()
    while any(queues):
        queue = chance.choice([queue for queue in queues if queue])
        mixed = fold(mixed, [queue.pop(0)])
    same(figures(straight), figures(mixed))


@given(speeches(), st.randoms(use_true_random=False))
def test_repetitions_change_nothing(said: list[list[Heard]], chance: Any) -> None:
    once = fold(fresh(), [one for each in said for one in each])
    twice = fresh()
    for each in said:
        for at, one in enumerate(each):
            twice = fold(twice, [one, chance.choice(each[: at + 1])])
    same(figures(once), figures(twice))
    assert twice.duplicates == sum(len(each) for each in said)


@given(speeches())
def test_one_batch_folds_as_many(said: list[list[Heard]]) -> None:
    whole = [one for each in said for one in each]
    step = fresh()
    for one in whole:
        step = fold(step, [one])
    same(figures(fold(fresh(), whole)), figures(step))


@given(speeches())
def test_shadow_reports_leave_the_live_plane_as_it_is(said: list[list[Heard]]) -> None:
    live = [one for each in said for one in each if not one.report.shadow]
    with_shadow = figures(fold(fresh(), [one for each in said for one in each]))
    without = figures(fold(fresh(), live))
    for name in ("in_flight", "queued", "busy_peak"):
        np.testing.assert_allclose(with_shadow[name][:, LIVE], without[name][:, LIVE])
    np.testing.assert_array_equal(with_shadow["activity_ns"][:, LIVE], without["activity_ns"][:, LIVE])
    assert not np.any(without["in_flight"][:, SHADOW])


@given(speeches())
def test_gauges_are_the_sum_of_the_last_words(said: list[list[Heard]]) -> None:
    load = figures(fold(fresh(), [one for each in said for one in each]))
    for at, name in enumerate(("blue", "green")):
        last = [each[-1].report for each in said]
        live = [row for body in last for row in body.rows if row.deployment == name and not body.shadow]
        assert load["in_flight"][at, LIVE] == sum(row.in_flight for row in live)
        assert load["queued"][at, LIVE] == sum(row.queued for row in live)
