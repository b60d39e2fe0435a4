"""A restart forgets nothing: picture → JSON → restore → fold the rest gives what folding everything gives, to the bit."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscaler.policy import snapshot
from autoscaler.policy.decider import History, fresh_standing, history_of, with_histories
from autoscaler.policy.demand import DemandState, Heard, fold, load_at, row_of, set_width
from router.contract.codec import decode_snapshot, encode_snapshot
from router.contract.events import DemandReport, DemandRow, EndpointSnapshot
from tests.support.autoscaler_fleet import SECOND, START
from tests.support.autoscaler_known import known, sorted_text

ENDPOINTS = ("tides", "winds")
NAMES = ("blue", "green")
EXPIRE = 10 * SECOND
WIDTH = 2 * SECOND


@st.composite
def speeches(draw: st.DrawFn) -> list[Heard]:
    """What reporters say over a minute about two endpoints, by the log and directly, in the order in which it comes."""
    heard = []
    for number in range(draw(st.integers(1, 3))):
        shadow = draw(st.booleans()) and number > 0
        moments = sorted(draw(st.sets(st.integers(0, 600), min_size=1, max_size=8)))
        for sequence, moment in enumerate(moments):
            rows = tuple(
                DemandRow(
                    name,
                    shadow=draw(st.booleans()),
                    arrivals=draw(st.integers(0, 9)),
                    completions=draw(st.integers(0, 9)),
                    in_flight=draw(st.integers(0, 9)),
                    queued=draw(st.integers(0, 9)),
                    busy_seconds=draw(st.floats(0, 1)),
                )
                for name in sorted(draw(st.sets(st.sampled_from(NAMES))))
            )
            end_ns = START + moment * SECOND // 10
            report = DemandReport(
                draw(st.sampled_from(ENDPOINTS)),
                end_ns - draw(st.integers(1, 30)) * SECOND // 10,
                end_ns,
                1,
                sequence,
                shadow,
                rows,
                draw(st.sampled_from([(), (("blue-1", 3),)])),
            )
            one = Heard(f"reporter-{number}", sequence, report)
            heard += draw(st.sampled_from([[one], [one._replace(direct=True)], [one._replace(direct=True), one]]))
    # Direct ones may overtake; by the log each writer's order stays.
    order = draw(st.permutations(range(len(heard))))
    logged = iter([one for one in heard if not one.direct])
    direct = iter([heard[at] for at in order if heard[at].direct])
    ways = draw(st.permutations([one.direct for one in heard]))
    return [next(direct) if way else next(logged) for way in ways]


def fresh() -> DemandState:
    state = DemandState()
    for endpoint in ENDPOINTS:
        set_width(state, (endpoint, "blue"), WIDTH)
    return state


def picture(state: DemandState, endpoint: str, histories: dict[str, History] | None = None) -> EndpointSnapshot:
    """As written to the log and read again."""
    drawn = snapshot.draw(state, [endpoint], {endpoint: histories or {}}, folder="here")[endpoint]
    return decode_snapshot(encode_snapshot(EndpointSnapshot(endpoint, 1, 1, 0, 7, drawn)))


def restored(*pictures: EndpointSnapshot) -> DemandState:
    state = fresh()
    for one in pictures:
        snapshot.restore(state, one.endpoint, snapshot.read(one.state))
    return state


@given(speeches(), st.data())
def test_restoring_and_folding_the_rest_is_folding_everything(said: list[Heard], data: st.DataObject) -> None:
    cuts = {endpoint: data.draw(st.integers(0, len(said)), label=endpoint) for endpoint in ENDPOINTS}
    whole, pictures = fresh(), []
    for at in range(len(said) + 1):
        pictures += [picture(whole, endpoint) for endpoint in ENDPOINTS if cuts[endpoint] == at]
        whole = fold(whole, said[at : at + 1])
    # Reading begins at the older picture, so the other endpoint hears again what it had counted.
    again = fold(restored(*pictures), said[min(cuts.values()) :])
    for moment in (0, 30, 60, 90):
        one, other = known(whole, START + moment * SECOND), known(again, START + moment * SECOND)
        for part in one:
            assert sorted_text(one[part]) == sorted_text(other[part]), part


@given(speeches())
def test_a_picture_of_what_was_restored_is_the_same_picture(said: list[Heard]) -> None:
    state = fold(fresh(), said)
    first = [picture(state, endpoint) for endpoint in ENDPOINTS]
    second = restored(*first)
    assert first == [picture(second, endpoint) for endpoint in ENDPOINTS]


@given(speeches())
def test_what_is_dropped_leaves_nothing_and_harms_nobody(said: list[Heard]) -> None:
    state = fold(fresh(), said)
    kept = picture(state, "winds")
    snapshot.drop(state, ["tides"])
    assert picture(state, "winds") == kept
    left = snapshot.draw(state, ["tides"], {})["tides"]
    assert (left["deployments"], left["writers"]) == ({}, {})
    assert not [key for key in state.cells if key[1][0] == "tides"]
    assert sum(state.cell_row >= 0) == len(state.cells)
    # What was given back serves others without a trace of before.
    row = row_of(state, ("new", "blue"))
    assert not state.ring.values[:, row].any()


def test_thousands_of_ids_that_came_directly_are_a_few_numbers() -> None:
    report = DemandReport("tides", START, START + 1, 1, 1)
    state = fold(fresh(), [Heard("gateway", 3 + at * 7, report, direct=True) for at in range(5000)])
    one = picture(state, "tides")
    assert len(encode_snapshot(one)) < 1500
    assert restored(one).ids["tides"]["gateway"].beyond == state.ids["tides"]["gateway"].beyond


def test_a_window_that_has_another_width_by_now_starts_empty_but_counts_nothing_twice() -> None:
    row = DemandRow("blue", arrivals=5, in_flight=2, busy_seconds=0.5)
    heard = Heard("gateway", 0, DemandReport("tides", START, START + SECOND, 1, 1, rows=(row,)))
    one = picture(fold(fresh(), [heard]), "tides")
    state = DemandState()
    set_width(state, ("tides", "blue"), 5 * SECOND)
    snapshot.restore(state, "tides", snapshot.read(one.state))
    load = load_at(fold(state, [heard]), START + SECOND, EXPIRE)
    at = row_of(state, ("tides", "blue"))
    assert (load.rate[at, 0], load.in_flight[at, 0]) == (0.0, 2.0)
    assert state.duplicates == 1


def test_an_old_picture_is_an_empty_window() -> None:
    row = DemandRow("blue", arrivals=5, in_flight=2, busy_seconds=0.5)
    heard = Heard("gateway", 0, DemandReport("tides", START, START + SECOND, 1, 1, rows=(row,)))
    state = restored(picture(fold(fresh(), [heard]), "tides"))
    load = load_at(state, START + 3600 * SECOND, EXPIRE)
    at = row_of(state, ("tides", "blue"))
    assert not load.busy_peak[at].any()
    assert not load.in_flight[at].any()
    assert not load.known[at], "no data is not zero"
    assert load.activity_ns[at, 0] == START + SECOND


HISTORIES = st.builds(
    History,
    desired=st.integers(-1, 100),
    active_ns=st.integers(-(2**62), 2**62),
    polled_ns=st.integers(-(2**62), 2**62),
    grown_ns=st.integers(-(2**62), 2**62),
    zeroed_ns=st.integers(-(2**62), 2**62),
    turns=st.floats(0, 10),
    turned_ns=st.integers(-(2**62), 2**62),
    rising=st.booleans(),
)


@given(st.dictionaries(st.sampled_from(NAMES), HISTORIES))
def test_histories_come_back_as_they_were(histories: dict[str, History]) -> None:
    read = snapshot.read(picture(fresh(), "tides", histories).state)
    assert read.histories == histories
    standing = with_histories(fresh_standing(4), dict(enumerate(histories.values())))
    assert [history_of(standing, at) for at in range(len(histories))] == list(histories.values())
    assert history_of(standing, 3) == history_of(fresh_standing(1), 0)


@given(HISTORIES, st.integers(0, 100), st.integers(0, 2**60))
def test_a_decision_that_no_picture_shows_is_caught_up_with(history: History, desired: int, at_ns: int) -> None:
    after = history.after(desired, at_ns)
    assert after.desired == desired
    if desired == history.desired:
        assert after == history
    elif desired > history.desired:
        assert (after.rising, after.grown_ns, after.turns) == (True, max(at_ns, history.grown_ns), history.turns)
    else:
        assert not after.rising
        assert after.zeroed_ns >= at_ns
        assert after.turns < history.turns + 10 if history.rising else after.turns == history.turns


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


@given(speeches(), st.data())
def test_what_makes_no_sense_is_refused_or_harmless(said: list[Heard], data: st.DataObject) -> None:
    body: Any = json.loads(json.dumps(dict(picture(fold(fresh(), said), "tides").state)))
    path: list[Any] = []
    place = body
    while isinstance(place, (dict, list)) and place and (not path or data.draw(st.booleans())):
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        path.append(key)
        place = place[key]
    parent = body
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = data.draw(JSON)
    try:
        read = snapshot.read(body)
    except snapshot.Unreadable:
        return
    state = fresh()
    snapshot.restore(state, "tides", read)
    load_at(fold(state, said), START, EXPIRE)


@pytest.mark.parametrize("body", [{}, {"shape": 2}, {"shape": "1"}, {"shape": 1}, {"shape": 1, "deployments": []}])
def test_another_version_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(snapshot.Unreadable):
        snapshot.read(body)


def test_the_figures_compared_are_not_all_empty() -> None:
    """Guards the tests above: `known` sees what a decision sees."""
    row = DemandRow("blue", arrivals=5, completions=2, in_flight=2, queued=1, busy_seconds=0.5)
    one = known(
        fold(fresh(), [Heard("g", 0, DemandReport("tides", START, START + SECOND, 1, 1, rows=(row,)))]), START + SECOND
    )
    other = known(fresh(), START + SECOND)
    differing = {
        key[2] for key in one["loads"] if not np.array_equal(one["loads"][key], other["loads"][key], equal_nan=True)
    }
    assert differing >= {"in_flight", "queued", "busy", "busy_peak", "rate", "service_seconds", "activity_ns", "known"}
