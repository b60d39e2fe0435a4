"""Each message counts once, whichever way it comes: by the log in order and some of it again, directly as it likes."""

from __future__ import annotations

from collections import Counter
from typing import Any
from unittest import mock

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from autoscaler.policy import heard as ids
from autoscaler.policy.demand import DemandState, Heard, fold, load_at, prune, row_of
from autoscaler.policy.heard import Ids, Verdict
from router.contract.events import DemandRow
from tests.support.autoscaler_fleet import ENDPOINT, SECOND, START, report

NAMES = ("blue", "green")
NOW = START + 5 * SECOND
EXPIRE = 10 * SECOND


@st.composite
def speeches(draw: st.DrawFn) -> list[list[Heard]]:
    """What some reporters say; each counts its messages about other endpoints too, so there are holes."""
    said = []
    for number in range(draw(st.integers(1, 3))):
        shadow = draw(st.booleans()) and number > 0
        moments = sorted(draw(st.sets(st.integers(0, 50), min_size=1, max_size=6)))
        step = draw(st.integers(1, 3))
        bodies = [
            report(
                *[
                    DemandRow(
                        name,
                        shadow=draw(st.booleans()),
                        arrivals=draw(st.integers(0, 9)),
                        completions=draw(st.integers(0, 9)),
                        in_flight=draw(st.integers(0, 9)),
                        queued=draw(st.integers(0, 9)),
                        busy_seconds=draw(st.floats(0, 1)),
                    )
                    for name in draw(st.lists(st.sampled_from(NAMES), max_size=3))
                ],
                end_ns=START + moment * SECOND // 10,
                version=moment,
                shadow=shadow,
                draining=tuple((name, moment) for name in draw(st.sets(st.sampled_from(["r1", "r2"])))),
            )
            for moment in moments
        ]
        said.append([Heard(f"reporter-{number}", at * step, body) for at, body in enumerate(bodies)])
    return said


@st.composite
def log_way(draw: st.DrawFn, said: list[Heard]) -> list[Heard]:
    """All of it in order; now and then reading goes back and on from there."""
    way, at = [], 0
    rewinds = draw(st.integers(0, 2))
    while at < len(said):
        way.append(said[at])
        at += 1
        if rewinds and draw(st.booleans()):
            rewinds -= 1
            at = draw(st.integers(0, at))
    return way


@st.composite
def both_ways(draw: st.DrawFn, said: list[list[Heard]]) -> list[Heard]:
    """The log whole, and some of the messages directly, in any order, some twice; mixed in any way."""
    queues = [draw(log_way(each)) for each in said]
    spoken = [one for each in said for one in each]
    queues.append([one._replace(direct=True) for one in draw(st.lists(st.sampled_from(spoken), max_size=12))])
    mixed = []
    while any(queues):
        queue = draw(st.sampled_from([queue for queue in queues if queue]))
        mixed.append(queue.pop(0))
    return mixed


def fresh() -> DemandState:
    state = DemandState()
    for name in NAMES:
        row_of(state, (ENDPOINT, name))
    return state


def picture(state: DemandState) -> dict[str, Any]:
    """Everything that decisions can see, without the places where it stands."""
    rows = [row_of(state, (ENDPOINT, name)) for name in NAMES]
    load = load_at(state, NOW, EXPIRE)
    long_after = load_at(state, NOW + 10 * EXPIRE, EXPIRE)
    keys = {place: key for key, place in state.cells.items()}
    return {
        "load": {name: getattr(load, name)[rows] for name in type(load).__slots__},
        "known later": long_after.known[rows],
        "sums": state.ring.values[:, rows],
        "cells": {key: (*state.cell_gauges[:, at].tolist(), int(state.cell_ns[at])) for at, key in keys.items()},
        "heard": [state.heard_ns[rows].tolist(), state.newest_ns[rows].tolist(), state.activity_ns[rows].tolist()],
        "words": {
            writer: (word.sequence, word.at_ns, word.replicas_version, word.draining, {keys[at] for at in word.cells})
            for writer, word in state.words.get(ENDPOINT, {}).items()
        },
        "spoke": (state.spoke_ns, state.mirrors),
    }


def same(one: Any, other: Any) -> None:
    assert one.keys() == other.keys()
    for name in ("cells", "heard", "words", "spoke"):
        assert one[name] == other[name], name
    np.testing.assert_array_equal(one["known later"], other["known later"])
    np.testing.assert_allclose(one["sums"], other["sums"], rtol=1e-9, atol=1e-12)
    for name, values in one["load"].items():
        np.testing.assert_allclose(values, other["load"][name], rtol=1e-9, atol=1e-12, err_msg=name)


def folded(heard: list[Heard], sizes: list[int]) -> DemandState:
    """In batches of these sizes, round and round."""
    state, at, turn = fresh(), 0, 0
    while at < len(heard):
        size = sizes[turn % len(sizes)]
        state, at, turn = fold(state, heard[at : at + size]), at + size, turn + 1
    return state


@given(st.data(), speeches())
def test_both_ways_together_count_each_message_once(data: st.DataObject, said: list[list[Heard]]) -> None:
    mixed = data.draw(both_ways(said))
    sizes = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    once = fold(fresh(), [one for each in said for one in each])
    state = folded(mixed, sizes)
    same(picture(state), picture(once))
    assert state.duplicates + state.echoes == len(mixed) - sum(map(len, said))


@given(st.data(), speeches())
def test_while_the_log_is_silent_each_direct_message_counts_once(data: st.DataObject, said: list[list[Heard]]) -> None:
    spoken = [one for each in said for one in each]
    came = data.draw(st.lists(st.sampled_from(spoken), min_size=1))
    names = {(one.writer, one.sequence) for one in came}
    once = fold(fresh(), [one for one in spoken if (one.writer, one.sequence) in names])
    same(picture(fold(fresh(), [one._replace(direct=True) for one in came])), picture(once))


@given(speeches())
def test_what_comes_directly_and_then_by_the_log_is_an_echo_and_no_duplicate(said: list[list[Heard]]) -> None:
    spoken = [one for each in said for one in each]
    state = fold(fresh(), [one._replace(direct=True) for one in spoken])
    state = fold(state, spoken)
    assert (state.duplicates, state.echoes) == (0, len(spoken))
    assert not any(kept.beyond for by_writer in state.ids.values() for kept in by_writer.values())


@given(st.lists(st.tuples(st.sampled_from((True, True, True, False)), st.integers(0, 9)), max_size=40))
@example([*((True, one) for one in range(8)), (True, 0), (False, 0)])
def test_no_order_whatever_lets_a_message_count_twice_and_memory_is_bounded(steps: list[tuple[bool, int]]) -> None:
    with mock.patch.object(ids, "MOST_DIRECT", 4):
        known, new = Ids(), Counter[int]()
        for direct, sequence in steps:
            verdict = known.direct(sequence) if direct else known.logged(sequence)
            new[sequence] += verdict is Verdict.NEW
            assert len(known.beyond) <= 4
            assert list(known.beyond) == sorted({one for one in known.beyond if one > known.until})
    assert max(new.values(), default=0) <= 1


@given(st.integers(1, 30), st.data())
def test_beyond_the_bound_only_what_the_direct_way_lost_is_lost(count: int, data: st.DataObject) -> None:
    lost = data.draw(st.sets(st.integers(0, count - 1)))
    with mock.patch.object(ids, "MOST_DIRECT", 4):
        known = Ids()
        new = {one for one in range(count) if one not in lost and known.direct(one) is Verdict.NEW}
        new |= {one for one in range(count) if known.logged(one) is Verdict.NEW}
    assert set(range(count)) - new <= lost


def test_a_late_message_counts_but_its_gauges_are_history() -> None:
    old = report(DemandRow("blue", arrivals=5, in_flight=7), end_ns=START + SECOND)
    new = report(DemandRow("blue", arrivals=2, in_flight=1), end_ns=START + 2 * SECOND, version=9)
    state = fold(fresh(), [Heard("gateway", 8, new, direct=True), Heard("gateway", 3, old)])
    row = row_of(state, (ENDPOINT, "blue"))
    load = load_at(state, START + 2 * SECOND, EXPIRE)
    assert load.in_flight[row].tolist() == [1, 0]
    assert state.ring.values[1, row].sum() == 7
    assert state.words[ENDPOINT]["gateway"].replicas_version == 9


def test_a_forgotten_reporter_takes_its_ids_along() -> None:
    body = report(DemandRow("blue", arrivals=1), end_ns=START)
    later = report(DemandRow("blue", arrivals=1), end_ns=START + 60 * SECOND)
    state = fold(fresh(), [Heard("dead", 5, body, direct=True), Heard("alive", 5, later, direct=True)])
    prune(state, START + SECOND)
    assert {writer for by_writer in state.ids.values() for writer in by_writer} == {"alive"}
