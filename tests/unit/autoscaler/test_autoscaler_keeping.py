"""When pictures are written, and where reading begins again."""

from __future__ import annotations

import pytest

from autoscaler.control.keeping import (
    KEEP_NS,
    MOST,
    NOTE_NS,
    REPLAY_NS,
    Keeper,
    Note,
    newest_incarnation,
    notes_key,
    read_notes,
    start_of,
)
from autoscaler.control.reconciler import Reconciler
from autoscaler.policy.demand import Heard
from router.contract.codec import decode_snapshot
from router.contract.events import DEMAND, SNAPSHOTS, DemandReport, EndpointSnapshot
from router.runtime.log.base import Position
from tests.support.autoscaler_fleet import SECOND, START
from tests.support.autoscaler_group import specs


class Written:
    """The part of a log that a keeper uses."""

    def __init__(self) -> None:
        self.events: list[EndpointSnapshot] = []

    def append(self, topic: str, key: str, value: bytes) -> int:
        event = decode_snapshot(value)
        assert (topic, key) == (SNAPSHOTS, event.endpoint)
        self.events.append(event)
        return len(self.events) - 1

    def taken(self) -> list[EndpointSnapshot]:
        events, self.events = self.events, []
        return events


class Desk:
    """A keeper over a reconciler with some endpoints."""

    def __init__(self, endpoints: int = 1) -> None:
        self.reconciler = Reconciler(backends=["memory"], default_backend="memory", silent_seconds=10, folder="here")
        self.names = [f"tides{number}-0" for number in range(endpoints)]
        for name in self.names:
            self.reconciler.take_specs(specs(name))
        self.reconciler.follow({0}, {})
        self.reconciler.adopt(frozenset({0}), 7, START)
        self.log, self.offset, self.incarnation, self.now_ns = Written(), 40, "", START
        self.keeper = Keeper(self.log, self.reconciler, self.place)  # type: ignore[arg-type]  # it only appends

    def place(self, partition: int) -> Position | None:
        return Position(DEMAND, 0, self.offset, self.incarnation) if partition == 0 else None

    def turn(self, *, seconds: float = 0.0, everything: bool = False) -> list[EndpointSnapshot]:
        """A turn, `seconds` later, and what of endpoints was written."""
        self.now_ns += round(seconds * SECOND)
        self.reconciler.turn(self.now_ns)
        self.keeper.keep(self.now_ns, everything=everything)
        self.all = self.log.taken()
        return [one for one in self.all if not one.endpoint.startswith("#")]

    def say(self, endpoint: str) -> None:
        report = DemandReport(endpoint, self.now_ns - 1, self.now_ns, 1, 0)
        self.offset += 1
        self.reconciler.take_demand(Heard("gateway", self.offset, report))


def test_what_was_decided_is_written_at_once_and_else_now_and_then() -> None:
    desk = Desk()
    (first,) = desk.turn()
    assert (first.endpoint, first.generation, first.partition, first.offset) == (desk.names[0], 7, 0, 40)
    assert first.state["histories"]["blue"]["desired"] == 1
    assert desk.turn(seconds=60) == [], "nothing has changed"
    desk.say(desk.names[0])
    assert len(desk.turn()) == 1
    desk.say(desk.names[0])
    assert desk.turn() == []
    assert desk.turn(seconds=KEEP_NS / SECOND - 1) == []
    (later,) = desk.turn(seconds=1)
    assert later.offset == 42
    desk.reconciler.take_specs(specs(desk.names[0], 2, instance_count=2))
    (decided,) = desk.turn()
    assert decided.state["histories"]["blue"]["desired"] == 2


def test_the_end_writes_everything_that_changed() -> None:
    desk = Desk(3)
    desk.turn()
    desk.say(desk.names[1])
    assert [one.endpoint for one in desk.turn(everything=True)] == [desk.names[1]]
    assert desk.turn(everything=True) == []


def test_many_are_spread_over_turns_and_all_have_their_turn() -> None:
    desk = Desk(3 * MOST)
    desk.turn()
    desk.now_ns += KEEP_NS
    for name in desk.names:
        desk.say(name)
    turns = [[one.endpoint for one in desk.turn()] for _ in range(4)]
    assert [len(one) for one in turns] == [MOST, MOST, MOST, 0]
    assert sorted(name for one in turns for name in one) == sorted(desk.names)


def test_only_what_we_act_for_is_written() -> None:
    desk = Desk(2)
    desk.turn()
    desk.say(desk.names[0])
    desk.reconciler.hold(frozenset())
    assert desk.turn(everything=True) == []


def test_a_clock_that_is_set_back_does_not_stop_the_writing() -> None:
    desk = Desk()
    desk.turn()
    desk.now_ns -= 3600 * SECOND
    desk.say(desk.names[0])
    assert len(desk.turn()) == 1


def test_notes_say_where_a_partition_stood_over_the_last_minutes() -> None:
    desk = Desk()
    for _ in range(60):
        desk.offset += 10
        desk.turn(seconds=NOTE_NS / SECOND)
    kept = next(one for one in desk.all if one.endpoint == notes_key(0))
    notes = read_notes(kept)
    assert notes[-1] == Note(desk.now_ns, desk.offset)
    assert desk.now_ns - REPLAY_NS - NOTE_NS <= notes[0].at_ns <= desk.now_ns - REPLAY_NS
    assert len(notes) <= REPLAY_NS // NOTE_NS + 2
    desk.turn(seconds=NOTE_NS / SECOND)
    assert desk.all == [], "it stands where it stood"


@pytest.mark.parametrize(
    "state", [{}, {"shape": 2, "notes": []}, {"shape": 1, "notes": [[1]]}, {"shape": 1, "notes": 5}]
)
def test_notes_that_make_no_sense_are_refused(state: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="note"):
        read_notes(EndpointSnapshot("#0", 1, 1, 0, 1, state))


def test_where_reading_begins() -> None:
    now = 10 * REPLAY_NS
    notes = [Note(now - 2 * REPLAY_NS, 100), Note(now - REPLAY_NS, 200), Note(now - 1, 900)]

    def kept(*offsets: int) -> list[EndpointSnapshot]:
        return [EndpointSnapshot(f"e{at}", now, 1, 0, offset) for at, offset in enumerate(offsets)]

    assert start_of(kept(950, 920), False, notes, now) == 920, "at the older of the snapshots"
    assert start_of(kept(950, 150), False, notes, now) == 200, "but never further back than all memory"
    assert start_of(kept(950), True, notes, now) == 200, "an endpoint without one has the last minutes"
    assert start_of(kept(950), True, notes[2:], now) is None, "from the beginning, when nobody knows where those begin"
    assert start_of([], True, [], now) is None
    assert start_of([], False, notes, now) == 900, "nothing is missed where there is nobody yet"
    assert start_of(kept(150), False, [], now) == 150


def test_a_place_in_a_topic_that_was_made_anew_since_is_its_beginning() -> None:
    now = 10 * REPLAY_NS
    old = EndpointSnapshot("old", now - 2, 1, 0, 950, {}, "a" * 32)
    new = EndpointSnapshot("new", now - 1, 1, 0, 30, {}, "b" * 32)
    assert newest_incarnation([new, old]) == "b" * 32
    assert newest_incarnation([]) == ""
    assert start_of([new, old], False, [], now, "b" * 32) == 0
    assert start_of([new], False, [], now, "b" * 32) == 30
    assert start_of([new, old], False, [Note(now - REPLAY_NS, 20)], now, "b" * 32) == 20, "but not beyond all memory"


def test_notes_of_a_topic_that_was_made_anew_begin_again() -> None:
    desk = Desk()
    desk.incarnation = "a" * 32
    desk.offset = 1000
    desk.turn()
    desk.incarnation, desk.offset = "b" * 32, 3
    desk.turn(seconds=1)
    kept = next(one for one in desk.all if one.endpoint == notes_key(0))
    assert (kept.offset, kept.incarnation) == (3, "b" * 32)
    assert read_notes(kept) == (Note(desk.now_ns, 3),)
